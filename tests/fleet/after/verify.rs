//! Older snapshots that are read back.

use std::fs;

use super::images::Small;
use super::keeper::{Keeper, file};

fn keeper(verify: &str) -> Keeper {
    let rules = format!("keep_last = 30\n[policies.verify]\nnewest = false\n{verify}");
    Keeper::new(&file("to = \"oci:{HERE}/layout:{machine}-{night}\"", &rules))
}

fn froze(keeper: &Keeper, day: i8) -> smolfreeze::fleet::night::Night {
    let (tag, image) = (format!("db-2026-01-{day:02}"), Small::new("db", "2026-01", &day.to_string()));
    image.to_layout(&keeper.path("layout"), &tag);
    keeper.froze(day, &format!("oci:{}:{tag}", keeper.path("layout").display()), image.digest())
}

fn days(night: &smolfreeze::fleet::night::Night) -> Vec<&str> {
    night.after.verified.iter().map(|one| &one.name[one.name.len() - 2..]).collect()
}

#[tokio::test]
async fn each_night_the_one_that_waits_longest_is_read() {
    let keeper = keeper("every = \"3days\"");
    let mut read = Vec::new();
    for day in 1..11 {
        let night = keeper.after(froze(&keeper, day)).await;
        let night = keeper.after(night).await;
        assert!(night.outcomes[0].verified.is_none() && night.after.troubles.is_empty(), "{:?}", night.after);
        read.push(days(&night).join(" "));
    }
    // The first one had its name a minute after it began, so it is three days old in the fifth night. Then one a night; in the
    // ninth it was read longer ago, by that minute, than the fifth one was made.
    assert_eq!(read, ["", "", "", "", "01", "02", "03", "04", "01", "05"]);
}

#[tokio::test]
async fn a_part_is_read_and_a_fault_is_a_trouble_that_the_next_nights_know() {
    let keeper = keeper("part = \"50%\"");
    let mut last = None;
    for day in 1..11 {
        last = Some(froze(&keeper, day));
    }
    for day in 1..11 {
        let own = Small::new("db", "2026-01", &day.to_string()).layers[2].0.digest;
        fs::write(keeper.path("layout/blobs/sha256").join(own.hex()), "rotten").unwrap();
    }
    let night = keeper.after(last.unwrap()).await;
    assert_eq!((night.after.verified.len(), night.after.troubles.len()), (5, 5), "{:?}", night.after);
    assert!(night.after.troubles.iter().all(|trouble| trouble.kind == "corrupt"));
    assert_eq!(keeper.known().iter().filter(|snapshot| snapshot.fault().is_some()).count(), 5);
    let again = keeper.after(night).await;
    assert_eq!(again.after.verified.len(), 5, "the same ones, which are done");
}
