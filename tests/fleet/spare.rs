//! Destinations that are down, or die in the middle of it: each has its own result, and the others go on.

use smolfreeze::fleet::night::Standing;

use crate::desk::{Desk, is_done, outcome, why};
use crate::standin::Kind;
use crate::support::docker_registry::DockerRegistry;
use crate::support::proxy::{Fault, Habits, Proxy, Rule};

fn file(registry: std::net::SocketAddr) -> String {
    format!(
        "
[destinations.registry]
to = \"{registry}/{{machine}}:{{night}}\"
patience = \"2s\"
[destinations.down]
to = \"127.0.0.1:1/{{machine}}:{{night}}\"
[destinations.disk]
to = \"oci:{{HOST}}images/{{machine}}:{{night}}\"
[defaults]
to = [\"registry\", \"down\", \"disk\"]
[defaults.freeze]
link_patience = \"1s\"
[defaults.retries]
attempts = 2
pause = \"1s\"
[[policies]]
"
    )
}

#[test]
fn a_destination_that_is_down_costs_the_others_nothing() {
    let registry = DockerRegistry::start();
    let desk = Desk::new(&[("a", Kind::Busybox), ("b", Kind::Bare)]);
    desk.write(&file(registry.address));
    let night = desk.night(10, &["--night", "n1"]);
    for machine in ["a", "b"] {
        assert!(is_done(&night, machine, "registry") && is_done(&night, machine, "disk"));
        assert_eq!([outcome(&night, machine, "registry").attempts, outcome(&night, machine, "down").attempts], [1, 2]);
        let (kind, text) = why(&night, machine, "down");
        assert!(kind == "sink" && text.contains("127.0.0.1:1"), "{kind}: {text}");
        let digests = ["registry", "disk"].map(|name| outcome(&night, machine, name).image.as_ref().unwrap().digest);
        assert_eq!(digests[0], digests[1]);
        for name in ["registry", "disk"] {
            let verified = desk.host.command(&["verify", &outcome(&night, machine, name).name]).output().unwrap();
            assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        }
        assert!(outcome(&night, machine, "registry").image.as_ref().unwrap().sent_bytes > 1 << 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_in_the_middle_is_tried_again_alone() {
    let registry = DockerRegistry::start();
    // From the second upload on it refuses all that are begun; then it is well again.
    let refuses = Rule { method: "POST", skip: 1, times: usize::MAX, fault: Fault::Answer(403, "", "no more") };
    let proxy = Proxy::start(registry.address, Habits::default(), vec![refuses]).await;
    let desk = Desk::new(&[("a", Kind::Debian)]);
    desk.write(&file(proxy.address).replace("\"down\", ", ""));
    let night = tokio::task::block_in_place(|| desk.night(10, &["--night", "n1"]));
    assert!(is_done(&night, "a", "disk"), "{night:#?}");
    assert_eq!(outcome(&night, "a", "disk").attempts, 1);
    assert_eq!(outcome(&night, "a", "registry").state, Standing::Failed);
    assert_eq!(registry.open_sessions("a"), 0, "nothing half is left");
    proxy.lift();
    let night = tokio::task::block_in_place(|| desk.night(0, &["--night", "n1"]));
    assert!(is_done(&night, "a", "registry"));
    let verified = desk.host.command(&["verify", &outcome(&night, "a", "registry").name]).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}
