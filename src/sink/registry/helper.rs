//! Docker's credential helpers: programs `docker-credential-NAME` that keep what a user entered.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::credentials::Credential;
use crate::smolvm::read_some;

/// No answer is longer.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// The user's name that means that the secret is a token.
const TOKEN_USER: &str = "<token>";

/// What `docker-credential-NAME` has for a server; none if it has nothing. Whatever ends this early ends the helper, and
/// all that it started.
///
/// # Errors
/// Its own words, or ours, where it could not be asked.
pub(super) async fn get(name: &str, server: &str, limit: Duration) -> Result<Option<Credential>, String> {
    // It is looked up in PATH, and a path is none.
    if name.contains('/') {
        return Err("it is no name of a program".to_owned());
    }
    ask(&format!("docker-credential-{name}"), server, limit).await
}

async fn ask(program: &str, server: &str, limit: Duration) -> Result<Option<Credential>, String> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such program in PATH".to_owned(),
        _ => error.to_string(),
    })?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let asked = async {
        if let Some(mut stdin) = stdin {
            // One that does not read what it is asked for may still answer.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        let said = tokio::join!(read_some(stdout, ANSWER_BYTES_MAX), read_some(stderr, ANSWER_BYTES_MAX), child.wait());
        group.0 = None;
        said
    };
    let late = |_| format!("it gave no answer in {:.0} s, and was ended", limit.as_secs_f64());
    let (stdout, stderr, status) = tokio::time::timeout(limit, asked).await.map_err(late)?;
    if status.is_ok_and(|status| status.success()) {
        return answer(&stdout);
    }
    // The protocol has no other sign for it.
    let words = [&stdout, &stderr].map(|said| String::from_utf8_lossy(said).trim().to_owned());
    if words[0].contains("not found") {
        return Ok(None);
    }
    let told = words.iter().rev().find_map(|words| words.lines().next());
    Err(told.unwrap_or("it failed without a word").to_owned())
}

fn answer(stdout: &[u8]) -> Result<Option<Credential>, String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        username: String,
        #[serde(default)]
        secret: String,
    }
    // The parser's own words could hold a part of the secret.
    let Answer { username: user, secret: password } =
        serde_json::from_slice(stdout).map_err(|_| "its answer is no credential in JSON".to_owned())?;
    Ok(match user.as_str() {
        "" if password.is_empty() => None,
        TOKEN_USER => Some(Credential::IdentityToken(password)),
        _ => Some(Credential::Password { user, password }),
    })
}

/// Kills the process group when it is dropped; the number is its own until its leader was waited for.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// What a helper of this script gives, as text.
    async fn said(script: &str) -> Result<Option<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("helper");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let given = ask(path.to_str().unwrap(), "r.example", Duration::from_secs(2)).await?;
        Ok(given.map(|credential| match credential {
            Credential::None => "none".to_owned(),
            Credential::Password { user, password } => format!("{user}:{password}"),
            Credential::IdentityToken(token) => format!("token {token}"),
        }))
    }

    #[tokio::test]
    async fn a_helper_is_asked_for_a_server() {
        let echo =
            r#"read server; printf '{"ServerURL":"%s","Username":"x","Secret":"%s","More":[]}' "$server" "$server""#;
        assert_eq!(said(&format!("[ $1 = get ] && {echo}")).await, Ok(Some("x:r.example".to_owned())));
        let token = r#"echo '{"Username":"<token>","Secret":"abc"}'"#;
        assert_eq!(said(token).await, Ok(Some("token abc".to_owned())));
        assert_eq!(said(r#"echo '{"Username":"","Secret":""}'"#).await, Ok(None));
        assert_eq!(said("echo credentials not found in native keychain; exit 1").await, Ok(None));
        assert_eq!(said("echo no bus >&2; exit 1").await, Err("no bus".to_owned()));
        assert!(said("echo secret").await.unwrap_err().contains("JSON"));
        assert!(get("smolfreeze-has-none", "r.example", Duration::from_secs(2)).await.err().unwrap().contains("PATH"));
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids").display().to_string();
        let words = said(&format!("sleep 1000 & echo $! $$ >{pids}; wait")).await.unwrap_err();
        assert!(words.contains("no answer in 2 s"), "{words}");
        let pids = std::fs::read_to_string(pids).unwrap();
        let is_alive = |pid: &str| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !status.is_empty() && !status.contains(") Z ")
        };
        for _ in 0..100 {
            if !pids.split_whitespace().any(is_alive) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("still there: {pids}");
    }
}
