//! A layer that another repository of the registry has is not sent again.

use crate::host::Host;
use crate::support::docker_registry::DockerRegistry;
use crate::support::model::{Habits as Habit, Model, Mounts, Tokens};
use crate::support::proxy::{Habits, Proxy};

/// Twelve layers of their own.
const TREE: &str = "for i in {1..12}; do head -c 1500000 /dev/urandom >$i; done";
const WORDS: &[&str] = &["--layer-size", "1MiB", "--compression", "none"];

/// Configs and manifests are small beside this.
const SMALL: u64 = 100_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_repository_of_a_registry_gets_layers_from_the_first() {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let source = format!("dir:{}", host.tree("tree", TREE).display());
    let proxy = Proxy::start(registry.address, Habits::default(), vec![]).await;
    let [one, other, third] = ["team/one", "other", "third"].map(|name| format!("{}/{name}:tag", proxy.address));
    let snapshot = host.freeze(&[&[&*source, "--to", &one, "--to", &other], WORDS].concat());
    let sent = proxy.bytes("PUT");
    assert!((snapshot.stored_bytes..snapshot.stored_bytes + SMALL).contains(&sent), "{sent} bytes");
    // Another night, and another repository: what this host put there before is not even packed.
    let again = host.freeze(&[&[&*source, "--to", &third], WORDS].concat());
    assert_eq!(again.layers_known, again.layers.len() as u64);
    assert!(proxy.bytes("PUT") < sent + SMALL, "{} bytes", proxy.bytes("PUT"));
    for (name, repository) in [(one, "team/one"), (other, "other"), (third, "third")] {
        host.verify(&name);
        assert_eq!(registry.open_sessions(repository), 0);
    }
}

/// Where tokens are for single repositories, one is asked for that reads the other one, too; who gets none for that sends all.
#[test]
fn a_token_is_asked_for_both_repositories() {
    let host = Host::new();
    let source = format!("dir:{}", host.tree("tree", TREE).display());
    for tokens in [Tokens::ForAll, Tokens::ForOne] {
        let model = Model::start(Habit { mounts: Mounts::Done, tokens: Some(tokens), ..Habit::default() });
        let [one, other, third] = ["team/one", "other", "third"].map(|name| format!("{}/{name}:tag", model.address));
        let snapshot = host.freeze(&[&[&*source, "--to", &one, "--to", &other], WORDS].concat());
        host.freeze(&[&[&*source, "--to", &third], WORDS].concat());
        let times = if tokens == Tokens::ForAll { 1 } else { 3 };
        let sent = model.body_bytes() - (times - 1) * snapshot.stored_bytes;
        assert!((snapshot.stored_bytes..snapshot.stored_bytes + SMALL).contains(&sent), "{sent} bytes");
        for name in [one, other, third] {
            host.verify(&name);
        }
        assert_eq!(model.open_sessions(), 0);
    }
}

/// What was remembered is wrong, or the registry knows no mounts: all is sent, and that was found out by few tries.
#[test]
fn a_registry_that_mounts_nothing_gets_every_layer() {
    let host = Host::new();
    let source = format!("dir:{}", host.tree("tree", TREE).display());
    for mounts in [Mounts::Ignored, Mounts::Refused(405), Mounts::Refused(403), Mounts::Refused(401)] {
        let model = Model::start(Habit { mounts, ..Habit::default() });
        let [one, other, third] = ["one", "other", "third"].map(|name| format!("{}/{name}:tag", model.address));
        let snapshot = host.freeze(&[&[&*source, "--to", &one, "--to", &other], WORDS].concat());
        let again = host.freeze(&[&[&*source, "--to", &third], WORDS].concat());
        assert_eq!((snapshot.layers.len(), again.layers_known), (again.layers.len(), 0));
        let tries = model.requests().iter().filter(|request| request.contains("?mount=")).count();
        assert!((2..=8).contains(&tries) && tries < snapshot.layers.len(), "{tries} tries");
        for name in [one, other, third] {
            host.verify(&name);
        }
        assert_eq!(model.open_sessions(), 0);
    }
}
