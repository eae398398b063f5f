//! Whether an archive is good, judged by exit codes and by what tar and find said.
//!
//! On a live system files change while they are read, and every tar says so in its own way: GNU tar ends with 1, or with 2
//! where a listed file is gone, and busybox's ends with 1 for everything. So each line is read: what is normal becomes a
//! notice; a line that is not understood, from a program that failed, fails the freeze with that program's own words.

use crate::error::Error;
use crate::progress::NoticeKind;

/// Bytes of words that the guest keeps; at this size the last line may be cut.
pub(crate) const WORDS_BYTES_MAX: usize = 256 << 10;

/// The notices of a good end.
///
/// # Errors
/// The words of what went wrong.
pub fn judge(codes: &[(String, u64)], words: &[Vec<u8>]) -> Result<Vec<(NoticeKind, Vec<u8>)>, String> {
    let mut notices = Vec::new();
    let mut strange: Vec<&[u8]> = Vec::new();
    let tar_failed = codes.iter().any(|(program, code)| program == "tar" && *code != 0);
    let cut = words.iter().map(|line| line.len() + 1).sum::<usize>() >= WORDS_BYTES_MAX;
    let whole = if cut { &words[..words.len().saturating_sub(1)] } else { words };
    for line in whole {
        match understand(line) {
            Some(Some(notice)) => notices.push(notice),
            Some(None) => {}
            None if line.starts_with(b"tar: ") && !tar_failed => {}
            None => strange.push(line),
        }
    }
    let found = |program: &str| whole.iter().any(|line| line.starts_with(format!("{program}: ").as_bytes()));
    let hopeless = |program: &str, code: u64| match program {
        "tar" => code > 2,
        // What it could not look at, it names.
        "find" => code > 1 || code == 1 && !found(program),
        _ => code > 0,
    };
    let mut failed: Vec<_> = codes.iter().filter(|(program, code)| hopeless(program, *code)).collect();
    // Who wrote to one that was gone is not the cause.
    failed.sort_by_key(|(_, code)| *code == KILLED + SIGPIPE);
    if let Some((program, code)) = failed.first() {
        let said: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let said = quoted(if strange.is_empty() { &said } else { &strange });
        return Err(format!("{program} ended with {code}{}{said}", meaning(*code)));
    }
    let ended = |program: &str| codes.iter().any(|(ended, _)| ended == program);
    if !ended(READER) && !["find", "sort", "tar"].into_iter().all(ended) {
        return Err(format!("nothing was read to its end{}", quoted(&strange)));
    }
    if !strange.is_empty() {
        return Err(quoted(&strange).trim_start_matches(": ").to_owned());
    }
    Ok(notices)
}

/// A bad verdict about the archives of `subject`, in such words.
pub(super) fn error(subject: String, spool: &str, words: &str) -> Error {
    let error = Error::source("archiving in the guest", subject, words);
    if words.contains("Too many open files") {
        return error.hint("the host ran out of open files: start the machine from a shell with a higher `ulimit -n`");
    }
    if words.starts_with(SPOOL) || words.contains("No space left on device") {
        let folder = spool.rsplit_once('/').map_or("", |(folder, _)| folder);
        return error.hint(format!("free space in the machine's {folder}, or lower --chunk-size or --window"));
    }
    if words.starts_with(READER) {
        return error.hint("--guest-reader tar leaves the reading to the guest's own tools");
    }
    error
}

/// What `guest.sh` calls itself among the exit codes, where it could not write the spool.
const SPOOL: &str = "spool";
/// What a shell adds to the number of the signal that ended a program.
const KILLED: u64 = 128;
/// Writing to a pipe that nobody reads.
const SIGPIPE: u64 = 13;

/// What a code above a program's own says.
fn meaning(code: u64) -> &'static str {
    match code {
        126 => " (it could not be started)",
        127 => " (it was not found)",
        137 => " (it was killed; is the guest short of memory?)",
        KILLED.. => " (a signal ended it)",
        _ => "",
    }
}

/// The first three lines, for an error.
fn quoted(lines: &[&[u8]]) -> String {
    let said: Vec<String> =
        lines.iter().take(3).map(|line| crate::text::line(&String::from_utf8_lossy(line)).into_owned()).collect();
    match (said.is_empty(), lines.len().saturating_sub(3)) {
        (true, _) => String::new(),
        (false, 0) => format!(": {}", said.join(": ")),
        (false, more) => format!(": {} (and {more} lines more)", said.join(": ")),
    }
}

/// Our own reader's name among the exit codes.
pub(crate) const READER: &str = "reader";

/// What our own reader begins a notice with.
const NOTICE: &[u8] = b"notice ";

/// A notice as a line of words, read again by [`judge`].
#[must_use]
pub fn notice_line(kind: NoticeKind, path: &[u8]) -> Vec<u8> {
    let mut line = NOTICE.to_vec();
    line.extend_from_slice(
        serde_json::to_value(kind).ok().as_ref().and_then(|kind| kind.as_str()).unwrap_or("changed").as_bytes(),
    );
    line.extend_from_slice(b" ./");
    for byte in path {
        match byte {
            b'\\' => line.extend_from_slice(br"\\"),
            b'\n' => line.extend_from_slice(br"\n"),
            byte => line.push(*byte),
        }
    }
    line
}

/// A line that is normal on a live system; `Some(None)` says nothing worth a notice.
#[expect(clippy::option_option, reason = "understood or not, and then a notice or not")]
fn understand(line: &[u8]) -> Option<Option<(NoticeKind, Vec<u8>)>> {
    if let Some(path) = line.strip_prefix(b"socket: ") {
        return Some(Some((NoticeKind::Socket, name(path))));
    }
    if let Some(told) = line.strip_prefix(NOTICE) {
        let (kind, path) = told.split_at_checked(told.iter().position(|byte| *byte == b' ')?)?;
        let kind = serde_json::from_value(String::from_utf8_lossy(kind).into()).ok()?;
        return Some(Some((kind, name(&path[1..]))));
    }
    let said = line.strip_prefix(b"tar: ").or_else(|| line.strip_prefix(b"find: "))?;
    let ignored: [&[u8]; 3] = [
        b"Exiting with failure status due to previous errors",
        b"error exit delayed from previous errors",
        b"Removing leading `./' from member names",
    ];
    if ignored.contains(&said) || contains(said, b": Warning: ") || is_ready_mark(said) {
        return Some(None);
    }
    let endings: [(&[u8], NoticeKind); 6] = [
        (b": file changed as we read it", NoticeKind::Changed),
        (b": File removed before we read it", NoticeKind::Vanished),
        (b": No such file or directory", NoticeKind::Vanished),
        // Something else took its name, or that of a folder above it.
        (b": Not a directory", NoticeKind::Vanished),
        (b": Too many levels of symbolic links", NoticeKind::Vanished),
        (b": socket ignored", NoticeKind::Socket),
    ];
    for (ending, kind) in endings {
        if let Some(path) = said.strip_suffix(ending) {
            return Some(Some((kind, name(before_operation(path)))));
        }
    }
    let at = said.windows(16).rposition(|window| window == b": File shrank by")?;
    said.ends_with(b"padding with zeros").then(|| Some((NoticeKind::Shrank, name(&said[..at]))))
}

/// smolvm's own mark at the root of a bare machine, which is left out and which not even the guest's root may look at.
fn is_ready_mark(said: &[u8]) -> bool {
    let mark = said.strip_prefix(b"./.smolvm-ready.").and_then(|rest| rest.strip_suffix(b": Permission denied"));
    mark.is_some_and(|name| name.iter().all(u8::is_ascii_hexdigit))
}

/// GNU tar names what it could not do between path and reason: `./x: Cannot stat: No such file or directory`; busybox's
/// before the path: `can't open './x': No such file or directory`.
fn before_operation(said: &[u8]) -> &[u8] {
    let said = said.strip_prefix(b"can't open ").unwrap_or(said);
    said.windows(9).rposition(|window| window == b": Cannot ").map_or(said, |at| &said[..at])
}

fn contains(said: &[u8], part: &[u8]) -> bool {
    said.windows(part.len()).any(|window| window == part)
}

/// A path relative to the root, from how the tools print it: quoted, with `./` in front, odd bytes as `\n` or `\ooo`.
fn name(printed: &[u8]) -> Vec<u8> {
    let bare = printed.strip_prefix(b"'").and_then(|rest| rest.strip_suffix(b"'")).unwrap_or(printed);
    let bare = bare.strip_prefix(b"./").unwrap_or(bare);
    let mut path = Vec::with_capacity(bare.len());
    let mut rest = bare;
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            (b'\\', [letter @ (b'n' | b't' | b'r' | b'\\'), after @ ..]) => {
                path.push(match letter {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    _ => b'\\',
                });
                rest = after;
            }
            _ => path.push(*byte),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(code: u64, lines: &[&str]) -> Result<Vec<(NoticeKind, Vec<u8>)>, String> {
        let words: Vec<Vec<u8>> = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
        judge(&codes(&[("find", 0), ("sort", 0), ("tar", code), ("tar", 0)]), &words)
    }

    fn codes(codes: &[(&str, u64)]) -> Vec<(String, u64)> {
        codes.iter().map(|(program, code)| ((*program).to_owned(), *code)).collect()
    }

    #[test]
    fn a_live_system_is_normal() {
        let lines = [
            "tar: ./var/log/a\\nb: file changed as we read it",
            "tar: ./x: Cannot y: z: File shrank by 12 bytes; padding with zeros",
            "tar: ./gone: Cannot stat: No such file or directory",
            "tar: ./gone: File removed before we read it",
            "find: './d\\303\\251': No such file or directory",
            "tar: ./busy: No such file or directory",
            "tar: can't open './late': No such file or directory",
            "tar: ./folder/x: Cannot stat: Not a directory",
            "tar: error exit delayed from previous errors",
            "tar: Exiting with failure status due to previous errors",
            "socket: ./run/so ck",
        ];
        let notices = judged(2, &lines).unwrap();
        let names: Vec<_> = notices.iter().map(|(_, path)| String::from_utf8_lossy(path).into_owned()).collect();
        assert_eq!(
            names,
            ["var/log/a\nb", "x: Cannot y: z", "gone", "gone", "d\u{e9}", "busy", "late", "folder/x", "run/so ck"]
        );
        assert_eq!(notices[1].0, NoticeKind::Shrank);
    }

    #[test]
    fn what_is_not_normal_is_said() {
        for line in [
            "tar: ./x: Cannot open: Permission denied",
            "tar: ./d: Cannot savedir: Too many open files",
            "tar: short read",
        ] {
            assert!(judged(2, &[line]).unwrap_err().contains(line), "{line}");
        }
        assert!(judged(0, &["tar: something new and harmless"]).is_ok());
        assert!(judged(0, &["find: './x': Permission denied"]).is_err(), "what find could not list would be missing");
        assert!(judged(0, &["find: ./.smolvm-ready.9d75f0d7c398df56: Permission denied"]).is_ok(), "smolvm's own mark");
        assert!(judged(0, &["find: ./.smolvm-ready.x/y: Permission denied"]).is_err());
        assert!(judged(0, &["sort: write failed"]).is_err());
        assert!(judged(127, &["sh: tar: not found"]).unwrap_err().contains("127"));
        assert!(judge(&[], &[]).is_err());
        let full = judge(&codes(&[("tar", 0), ("dd", 1)]), &[b"dd: no space".to_vec()]);
        assert!(full.unwrap_err().contains("no space"));
    }

    #[test]
    fn every_program_ended_and_none_was_killed() {
        let judged = |all: &[(&str, u64)], word: &str| judge(&codes(all), &[word.as_bytes().to_vec()]);
        let killed = judged(&[("find", 141), ("sort", 137), ("tr", 0), ("tar", 0)], "").unwrap_err();
        assert!(killed.contains("sort ended with 137") && killed.contains("memory"), "{killed}");
        assert!(judged(&[("find", 0), ("tar", 0)], "tar: x: Warning: y").unwrap_err().contains("to its end"));
        let all = [("find", 1), ("sort", 0), ("tar", 0)];
        assert!(judged(&all, "find: ./x: No such file or directory").is_ok());
        assert!(judged(&all, "tar: ./x: No such file or directory").is_err(), "find named nothing");
        assert!(judged(&[("reader", 0)], "notice vanished ./x").is_ok());
    }
}
