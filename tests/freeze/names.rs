//! Names: what one command prints, every other one reads, and a word that could mean several things means none.

use crate::host::{Host, finish, one_line, shell};
use crate::support::docker_registry::DockerRegistry;

/// What a command says that has to go well.
fn says(host: &Host, words: &[&str]) -> String {
    let mut command = host.command(words);
    let output = finish(command.current_dir(host.path(".")).spawn().unwrap());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The name that a command printed behind `label`.
fn name_in(said: &str, label: &str) -> String {
    let line = said.lines().find(|line| line.starts_with(label)).expect("the line");
    line[label.len()..].trim().to_owned()
}

#[test]
fn what_one_command_prints_every_other_one_reads() {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    host.tree("tree", "echo a >file");
    shell(&host.path("."), "mkdir images '10:30'");
    let reference = format!("{}/team/app:v1", registry.address);
    for to in
        ["oci:./plain", "oci:images:v1", "oci:images:team/app:v2", "oci:10:30/new:v1", "oci:10:30/new", &reference]
    {
        let said = says(&host, &["freeze", "dir:tree", "--to", to]);
        let frozen = name_in(&said, "frozen");
        let (name, digest) = frozen.rsplit_once('@').expect("a digest");
        for name in [to, name, &frozen, &format!("{to}@{digest}")] {
            let image = name_in(&says(&host, &["inspect", name]), "image");
            assert!(image.ends_with(digest), "{name}: {image}");
            says(&host, &["inspect", &image]);
            says(&host, &["verify", name, "--json"]);
        }
        let listed = says(&host, &["ls"]);
        let output = listed.lines().last().unwrap().split_whitespace().last().unwrap();
        // From wherever, as it is printed.
        let mut elsewhere = host.command(&["verify", output]);
        assert!(finish(elsewhere.current_dir("/").spawn().unwrap()).status.success(), "{output}");
    }
    // As others name what they read.
    shell(
        &host.path("."),
        "skopeo inspect -q oci:images:team/app:v2 >/dev/null || skopeo inspect oci:images:team/app:v2 >/dev/null",
    );
    let tagged = says(&host, &["inspect", "oci:images:v1"]);
    let digest = name_in(&tagged, "image").rsplit_once('@').unwrap().1.to_owned();
    assert_eq!(
        name_in(&says(&host, &["inspect", &format!("oci:images@{digest}")]), "image"),
        format!("oci:images@{digest}")
    );
}

#[test]
fn an_only_image_needs_no_tag() {
    let host = Host::new();
    host.tree("tree", "echo a >file");
    says(&host, &["freeze", "dir:tree", "--to", "oci:made:v1"]);
    // buildah and skopeo write no name where none is given.
    shell(&host.path("."), "skopeo copy -q --insecure-policy oci:made:v1 oci:copied");
    for name in ["oci:made", "oci:copied"] {
        says(&host, &["verify", name]);
    }
    says(&host, &["freeze", "dir:tree", "--to", "oci:made:v2", "--user", "x"]);
    let output = finish(host.command(&["verify", &format!("oci:{}", host.text("made"))]).spawn().unwrap());
    let line = one_line(&output);
    assert!(line.contains("'latest'") && line.contains("v1, v2"), "{line}");
}

#[test]
fn a_word_without_a_host_is_refused_by_every_command_alike() {
    let host = Host::new();
    host.tree("tree", "echo a >file");
    for (word, meant) in [
        ("foo", "docker.io/library/foo "),
        ("team/dev", "docker.io/team/dev "),
        ("docker://registry.example/a", "registry.example/a"),
        ("oci-archive:x.tar", "oci:DIR"),
        ("./x", "oci:./x"),
    ] {
        let mut lines = Vec::new();
        for words in [
            &["freeze", "dir:tree", "--to", word][..],
            &["inspect", word],
            &["verify", word],
            &["thaw", word, "--name", "new", "--smolvm", "/nonexistent"],
        ] {
            let output = finish(host.command(words).current_dir(host.path(".")).spawn().unwrap());
            let line = one_line(&output);
            assert_eq!(output.status.code(), Some(2), "{words:?}: {line}");
            assert!(line.contains(word) && line.contains(meant), "{words:?}: {line}");
            lines.push(line);
        }
        assert!(lines[1..].iter().all(|line| *line == lines[1]), "{lines:?}");
    }
}
