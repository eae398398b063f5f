use super::*;

/// The answer of a guest that has told of `from` items before.
fn answer(from: u64, items: &str) -> Next {
    let lines: Vec<_> = items
        .split_whitespace()
        .zip(from..)
        .map(|(kind, index)| match kind {
            "seam" => format!("seam {index}"),
            _ => format!("chunk {index} 1 cksum 1"),
        })
        .collect();
    let lines: Vec<_> = lines.iter().map(String::as_bytes).collect();
    Next::read(&lines, from, 1).unwrap()
}

#[test]
fn more_archives_than_there_can_be_are_refused() {
    let options = Options { window_chunks: 100, ..Options::default() };
    let mut standing = Standing::new();
    standing.told(answer(0, "seam chunk seam seam"), 0, &options).unwrap();
    standing.told(answer(4, "chunk seam"), 0, &options).unwrap();
    let refusal = standing.told(answer(6, "chunk seam"), 0, &options).unwrap_err();
    assert!(refusal.contains("5 archives"), "{refusal}");
    let refusal = Standing::new().told(answer(0, &"seam ".repeat(90)), 0, &options).unwrap_err();
    assert!(refusal.contains("90 archives"), "{refusal}");
}

#[test]
fn a_guest_that_is_further_ahead_than_its_window_is_refused() {
    let options = Options { window_chunks: 3, ..Options::default() };
    let refusal = Standing::new().told(answer(0, "chunk chunk chunk chunk"), 0, &options).unwrap_err();
    assert!(refusal.contains("4 chunks ahead"), "{refusal}");
    let mut standing = Standing::new();
    standing.told(answer(0, "chunk chunk chunk"), 0, &options).unwrap();
    standing.told(answer(3, "chunk seam"), 2, &options).unwrap();
    let refusal = standing.told(answer(5, "chunk"), 2, &options).unwrap_err();
    assert!(refusal.contains("4 chunks ahead"), "{refusal}");
    assert_eq!(standing.places.len(), 5, "what is refused is not taken in");
}

#[test]
fn a_guest_that_lives_and_gives_nothing_is_not_waited_for() {
    let options = Options { window_chunks: 2, ..Options::default() };
    let running = |from, items: &str| Next { state: State::Running, ..answer(from, items) };
    let (mut standing, began) = (Standing::new(), Instant::now());
    let late = began + SILENCE_MAX + Duration::from_secs(1);
    let later = late + SILENCE_MAX + Duration::from_secs(1);
    standing.within_patience(&running(0, ""), &options, began + SILENCE_MAX / 2).unwrap();
    standing.within_patience(&running(0, "chunk"), &options, late).unwrap();
    standing.within_patience(&running(1, ""), &options, late + SILENCE_MAX).unwrap();
    let refusal = standing.within_patience(&running(1, ""), &options, later).unwrap_err();
    assert!(refusal.contains("15 minutes"), "{refusal}");
    // One that reads much to compare it gives nothing for long.
    let works = |work| Next { work, ..running(1, "") };
    for (work, now) in [(7, later), (8, later + SILENCE_MAX * 2), (8, later + SILENCE_MAX * 3)] {
        standing.within_patience(&works(work), &options, now).unwrap();
    }
    assert!(standing.within_patience(&works(8), &options, later + SILENCE_MAX * 4).is_err());
    // With a full window it is the guest that waits.
    standing.told(running(0, "chunk chunk"), 0, &options).unwrap();
    standing.within_patience(&running(2, ""), &options, later).unwrap();
}

#[test]
fn an_end_without_an_archive_is_refused() {
    let options = Options::default();
    let ended = |items: &str, count| Next { state: State::End(count), ..answer(0, items) };
    let refusal = Standing::new().told(ended("", 0), 0, &options).unwrap_err();
    assert!(refusal.contains("no archive"), "{refusal}");
    assert!(Standing::new().told(ended("chunk", 1), 0, &options).is_err());
    Standing::new().told(ended("seam", 1), 0, &options).unwrap();
}
