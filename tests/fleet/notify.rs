//! Who is told of a run, on loopback.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use smolfreeze::fleet::file::File;
use smolfreeze::fleet::night::{Night, Standing};
use smolfreeze::fleet::notify::{self, End};

use crate::made_up;

/// A request as it came: method and path, and the body.
pub type Request = (String, String);

/// Keeps what it is asked, and answers with the statuses that were ordered, the last one for ever. 0 is no answer.
pub struct Listener {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Listener {
    pub fn start(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<Request>>>::default();
        let kept = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let mut reader = BufReader::new(connection.try_clone().unwrap());
                let (mut first, mut length) = (String::new(), 0);
                reader.read_line(&mut first).unwrap();
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if line.trim().is_empty() {
                        break;
                    }
                    if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
                        length = text.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let words: Vec<_> = first.split(' ').take(2).collect();
                let mut kept = kept.lock().unwrap();
                kept.push((words.join(" "), String::from_utf8(body).unwrap()));
                match statuses[(kept.len() - 1).min(statuses.len() - 1)] {
                    0 => held.push(connection),
                    status => {
                        let answer = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                        connection.write_all(answer.as_bytes()).unwrap();
                    }
                }
            }
        });
        Self { address, asked }
    }

    pub fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }
}

fn file(notify: &str) -> File {
    File::parse(&format!("{}\n[notify]\n{notify}", made_up::FILE)).unwrap()
}

fn night() -> Night {
    made_up::nights(jiff::civil::date(2026, 11, 29)).pop().unwrap()
}

#[tokio::test]
async fn a_run_is_pinged_at_its_start_and_its_end() {
    let listener = Listener::start(&[200]);
    let file = file(&format!("ping = \"http://{}/my-check\"", listener.address));
    assert!(notify::begun(&file).await.is_empty());
    assert!(notify::ended(&file, &night(), &End { exit: 0, log: "frozen: a\n" }).await.is_empty());
    assert!(notify::ended(&file, &night(), &End { exit: 10, log: "frozen: a\nfailed: b\n" }).await.is_empty());
    let asked = listener.asked();
    let paths: Vec<_> = asked.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["POST /my-check/start", "POST /my-check", "POST /my-check/fail"]);
    assert!(asked[2].1.ends_with("frozen: a\nfailed: b\n"), "{}", asked[2].1);
    let body = &asked[2].1;
    assert!(
        body.contains("fleet 'fleet' on rack-7, night 2026-11-29: 21 done, 5 failed, 2 skipped; exit code 10"),
        "{body}"
    );
    assert!(body.contains("old-crm at registry: sending a blob failed: registry.example: 401"), "{body}");
    assert!(body.contains("without a policy: scratch-with-no-policy"), "{body}");
}

#[tokio::test]
async fn a_webhook_and_a_command_are_told_what_they_asked_for() {
    let listener = Listener::start(&[204]);
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let keys = format!(
        "webhook = \"http://{}/hook?key=1\"\ncommand = 'cat >{path}; echo \"$SMOLFREEZE_NIGHT $SMOLFREEZE_EXIT\" >>{path}'\nwhen = \"failure\"",
        listener.address,
        path = told.display()
    );
    let file = file(&keys);
    assert!(notify::begun(&file).await.is_empty());
    assert!(notify::ended(&file, &night(), &End { exit: 0, log: "" }).await.is_empty());
    assert!(listener.asked().is_empty() && !told.exists(), "nothing failed");
    assert!(notify::ended(&file, &night(), &End { exit: 10, log: "" }).await.is_empty());
    let asked = listener.asked();
    assert_eq!(asked[0].0, "POST /hook?key=1");
    let json: serde_json::Value = serde_json::from_str(&asked[0].1).unwrap();
    assert_eq!(
        (&json["exit_code"], &json["is_success"], &json["night"]),
        (&10.into(), &false.into(), &"2026-11-29".into())
    );
    assert_eq!(json["outcomes"].as_array().unwrap().len(), 28);
    assert_eq!(json["troubles"][0]["kind"], "hook");
    let text = std::fs::read_to_string(told).unwrap();
    assert!(text.starts_with("fleet 'fleet' on rack-7") && text.ends_with("2026-11-29 10\n"), "{text}");
}

#[tokio::test]
async fn who_can_not_be_told_is_a_trouble_and_keeps_nobody_from_being_told() {
    let (silent, refusing) = (Listener::start(&[0]), Listener::start(&[404]));
    let keys = format!(
        "ping = \"http://{}/secret\"\nwebhook = \"http://{}/hook\"\ncommand = \"sleep 60\"\nlimit = \"2s\"",
        silent.address, refusing.address
    );
    let began = Instant::now();
    let troubles = notify::ended(&file(&keys), &night(), &End { exit: 0, log: "" }).await;
    assert!(began.elapsed() < Duration::from_secs(20), "each has its limit, and they don't wait for each other");
    let texts: Vec<_> = troubles.iter().map(|trouble| trouble.text.as_str()).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert!(texts[0].contains("pinging 127.0.0.1 failed") && !texts[0].contains("secret"), "{texts:?}");
    assert!(texts[1].contains("the answer was 404"), "{texts:?}");
    assert!(texts[2].contains("it did not end within 2s"), "{texts:?}");
    assert!(troubles.iter().all(|trouble| trouble.kind == "notify"));
    assert_eq!(refusing.asked().len(), 1, "what is refused is not asked again");
}

#[tokio::test]
async fn a_ping_that_did_not_get_through_is_sent_again() {
    let listener = Listener::start(&[503, 429, 200]);
    let file = file(&format!("ping = \"http://{}/a\"", listener.address));
    assert!(notify::begun(&file).await.is_empty());
    assert_eq!(listener.asked().len(), 3);
}

#[tokio::test]
async fn a_file_that_is_wrong_is_told_to_whom_it_names() {
    let listener = Listener::start(&[200]);
    let broken = format!("[notify]\nping = \"http://{}/a\"\n[[policies]\nmachines = 3", listener.address);
    let reason = File::parse(&broken).unwrap_err()[0].to_string();
    assert!(notify::refused(&broken, &reason).await.is_empty());
    let asked = listener.asked();
    assert_eq!(asked[0].0, "POST /a/fail");
    assert!(asked[0].1.contains("line 3, column"), "{asked:?}");
    assert!(notify::refused("nothing in it", "x").await.is_empty());
}

#[test]
fn a_summary_names_what_failed() {
    let mut night = night();
    let all_failed = notify::summary(&night, 10);
    assert_eq!(all_failed.lines().filter(|line| line.contains(" at ")).count(), 5, "{all_failed}");
    for outcome in &mut night.outcomes {
        outcome.state = Standing::Failed;
        outcome.trouble = None;
    }
    night.outcomes = [night.outcomes.clone(), night.outcomes].concat();
    assert!(notify::summary(&night, 11).contains("and 6 more failed"));
    night.outcomes.clear();
    assert!(notify::summary(&night, 12).contains("nothing was selected; exit code 12"));
}
