//! What is printed, where names, images and records hold escape sequences and new lines: one line stays one line.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::archive::{entry, tar};
use crate::host::{Host, finish, shell};

/// Clears the screen and forges a line of ours. With what turns a line around, and a byte that is no letter.
const NAME: &str = "$'so\\e[2J\\n\\xe2\\x80\\xaefrozen      oci:evil\\xff'";
const SHOWN: &str = r"so\x1b[2J\n\u{202e}frozen      oci:evil";

/// Runs a command: its exit code, and what it said on both sides, which has to be fit for a terminal.
fn says(command: &mut Command) -> (Option<i32>, String) {
    let output = finish(command.spawn().unwrap());
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let fit = |char: char| char == '\n' || !(char.is_control() || char == '\u{202e}');
    assert!(said.chars().all(fit), "{said:?}");
    (output.status.code(), said)
}

#[test]
fn a_summary_has_a_line_for_each_fact() {
    let host = Host::new();
    let make = format!("python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' {NAME}");
    let tree = host.tree("tree", &make).display().to_string();
    for progress in ["plain", "none"] {
        let to = format!("oci:{}", host.text(&format!("layout\u{1b}[31m\n{progress}")));
        let words = ["freeze", &format!("dir:{tree}"), "--to", &to, "--progress", progress];
        let (code, said) = says(&mut host.command(&words));
        assert_eq!((code, said.lines().count()), (Some(0), 8), "{said}");
        assert!(said.contains(&format!("1 sockets left out ({SHOWN}")), "{said}");
        assert!(said.starts_with("frozen      oci:") && said.contains(r"layout\x1b[31m\n"), "{said}");
    }
    let (_, said) = says(&mut host.command(&["ls"]));
    assert_eq!(said.lines().count(), 3, "{said}");
}

#[test]
fn a_hint_can_be_pasted() {
    let host = Host::new();
    // Root may read everything; another user may not.
    shell(&host.path("."), "chmod 755 .; mkdir -m 777 out");
    let make = format!(
        "echo a >readable; mkdir -m 700 {NAME} 'se[c]ret {{a,b}}'; install -m 600 /dev/null {NAME}/../$'it\\'s'"
    );
    let tree = host.tree("tree", &make).display().to_string();
    let out = host.text("out/image");
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/nonexistent TMPDIR=/tmp";
    let mut words = format!("{nobody} {} freeze dir:{tree} --to oci:{out} --no-record --quiet", host.binary.display());
    for round in 0..4 {
        let (code, said) = says(host.surround(&mut Command::new("bash")).args(["-c", &words]));
        if round == 3 {
            assert_eq!(code, Some(0), "{words}: {said}");
            break;
        }
        assert_eq!((code, said.lines().count()), (Some(3), 1), "{said}");
        let (_, hint) = said.trim_end().split_once("leave it out with ").unwrap();
        words = format!("{words} {hint}");
    }
    host.verify(&format!("oci:{out}"));

    let hostile = tar(&[entry("./kept", b'0', b"a"), entry("./a/.wh.\u{1b}[31m", b'0', b"b")]);
    fs::write(host.path("t.tar"), hostile).unwrap();
    let words = format!("{} freeze tar:t.tar --to oci:other --quiet", host.binary.display());
    let run =
        |words: &str| says(host.surround(&mut Command::new("bash")).args(["-c", words]).current_dir(host.path(".")));
    let (code, said) = run(&words);
    assert_eq!((code, said.lines().count()), (Some(3), 1), "{said}");
    let (_, hint) = said.trim_end().split_once("leave it out with ").unwrap();
    assert_eq!(run(&format!("{words} {hint}")), (Some(0), String::new()));
}

#[test]
fn an_image_says_what_it_says_on_its_own_lines() {
    let host = Host::new();
    let tree = host.tree("tree", "echo hello >file").display().to_string();
    let bad = "x\u{1b}[2J\nlayers        0\u{202e}";
    let label = format!("{bad}={bad}");
    let to = format!("oci:{}", host.text("layout"));
    host.freeze(&[
        &format!("dir:{tree}"),
        "--to",
        &to,
        "--user",
        bad,
        "--workdir",
        bad,
        "--cmd",
        bad,
        "--label",
        &label,
    ]);
    let (code, said) = says(&mut host.command(&["inspect", &to]));
    assert_eq!((code, said.lines().count()), (Some(0), 11), "{said}");
    assert!(said.contains(r"user          x\x1b[2J\nlayers        0\u{202e}"), "{said}");
    let json = finish(host.command(&["inspect", &to, "--json"]).spawn().unwrap());
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["config"]["config"]["User"], json!(bad), "JSON has it as it is");

    // A layer of a type of its own, and a tag that isn't there.
    let path = host.path("layout/index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = json!(bad);
    fs::write(&path, index.to_string()).unwrap();
    let (code, said) = says(&mut host.command(&["verify", &format!("{to}:v1")]));
    assert_eq!((code, said.lines().count()), (Some(4), 1), "{said}");
}
