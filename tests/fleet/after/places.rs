//! Retention at places that are not as one would like them: registries that delete nothing, or manifests alone; names that
//! somebody else gave to something else; runs that were killed.

use std::fs;
use std::path::Path;

use serde_json::json;
use smolfreeze::fleet::after::What;
use smolfreeze::fleet::night::Removed;
use smolfreeze::oci::{Descriptor, Digest};
use smolfreeze::serve::{ServeOptions, Server};
use smolfreeze::stage::digest::DigestHasher;
use smolfreeze::stop::Stop;

use super::images::{Small, blobs, tags};
use super::keeper::{Keeper, faults, file, found, of};
use crate::host::Host;
use crate::support::docker_registry::{DockerRegistry, Setup};
use crate::support::model::{Deletes, Habits, Model, Tokens};
use crate::support::sidecar;

fn small(own: &str) -> Small {
    Small::new("db", "2026-01", own)
}

fn in_registry(address: std::net::SocketAddr) -> Keeper {
    Keeper::new(&file(&format!("to = \"{address}/fleet/{{machine}}:{{night}}\""), "keep_last = 2"))
}

/// Three nights at a registry, of which the first one's has to go: its name, and the last night.
async fn three(
    keeper: &Keeper,
    address: std::net::SocketAddr,
    owns: [&str; 3],
) -> (String, smolfreeze::fleet::night::Night) {
    let name = |day: usize| format!("{address}/fleet/db:2026-01-{day:02}");
    let mut night = None;
    for (number, own) in owns.iter().enumerate() {
        let image = small(own);
        image.to_registry(&name(number + 1)).await;
        night = Some(keeper.froze(i8::try_from(number).unwrap() + 1, &name(number + 1), image.digest()));
    }
    (name(1), night.unwrap())
}

async fn is_whole(name: &str) {
    assert_eq!(faults(name).await, Vec::<String>::new(), "{name}");
}

#[tokio::test]
async fn a_registry_that_deletes_nothing_is_said_once_and_is_no_trouble() {
    let registry = DockerRegistry::start_with(&Setup { keeps_all: true, ..Setup::default() });
    let address = registry.address;
    let model = Model::start(Habits { deletes: Deletes::Nothing, ..Habits::default() });
    for address in [address, model.address] {
        let keeper = in_registry(address);
        three(&keeper, address, ["a", "b", "c"]).await;
        let image = small("d");
        let name = format!("{address}/fleet/db:2026-01-04");
        image.to_registry(&name).await;
        let night = keeper.after(keeper.froze(4, &name, image.digest())).await;
        assert!(night.after.removed.is_empty() && night.after.removing.is_empty() && night.after.troubles.is_empty());
        assert_eq!(night.after.remarks.len(), 1, "{:?}", night.after);
        assert!(night.after.remarks[0].contains("removes no images") && night.after.remarks[0].contains("405"));
        is_whole(&format!("{address}/fleet/db:2026-01-01")).await;
    }
}

#[tokio::test]
async fn a_manifest_goes_only_where_no_other_tag_and_no_index_has_it() {
    let registry = DockerRegistry::start();
    let address = registry.address;
    let lying = Model::start(Habits { deletes: Deletes::ClaimsTags, tags_a_page: 1, ..Habits::default() });
    let manifests = Model::start(Habits { deletes: Deletes::Manifests, tags_a_page: 2, ..Habits::default() });
    for address in [address, lying.address, manifests.address] {
        let keeper = in_registry(address);
        let (first, night) = three(&keeper, address, ["a", "b", "c"]).await;
        // Somebody calls it so, too; and with paging it is on the last page.
        let other = format!("{address}/fleet/db:zzz");
        small("a").to_registry(&other).await;
        let night = keeper.after(night).await;
        assert!(Keeper::removed(&night).is_empty() && night.after.troubles.is_empty(), "{:?}", night.after);
        assert!(night.after.remarks[0].contains("'zzz' is the same image"), "{:?}", night.after);
        is_whole(&first).await;
        is_whole(&other).await;
        // Somebody's index has it, whose tag it is now.
        let image = small("a");
        let listed = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [image.image.manifest.0] });
        let bytes = listed.to_string().into_bytes();
        let digest = DigestHasher::of(&bytes);
        let media_type = "application/vnd.oci.image.index.v1+json".to_owned();
        let index = Descriptor { media_type, digest, size: bytes.len() as u64 };
        let mut several = small("a");
        several.image.manifest = (index, bytes.into());
        several.to_registry(&other).await;
        let night = keeper.after(night).await;
        assert!(Keeper::removed(&night).is_empty(), "{:?}", night.after);
        assert!(night.after.remarks[0].contains("'zzz' is the same image"), "{:?}", night.after);
        // Now it is another one.
        small("z").to_registry(&other).await;
        let night = keeper.after(night).await;
        assert_eq!(Keeper::removed(&night), [&first[..]], "{:?}", night.after);
        is_whole(&other).await;
        is_whole(&format!("{address}/fleet/db:2026-01-02")).await;
        is_whole(&format!("{address}/fleet/db:2026-01-03")).await;
    }
}

#[tokio::test]
async fn a_tag_goes_by_tag_where_the_registry_can() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::open(&folder.path().join("served"), listener, ServeOptions::default()).unwrap();
    let (address, stop) = (server.address(), Stop::new());
    let model = Model::start(Habits { tokens: Some(Tokens::ToDelete), head_refused: Some(405), ..Habits::default() });
    let test = async {
        for address in [address, model.address] {
            let keeper = in_registry(address);
            // The second is the first one's image again.
            let (first, night) = three(&keeper, address, ["a", "a", "c"]).await;
            let night = keeper.after(night).await;
            assert_eq!(Keeper::removed(&night), [&first[..]], "{:?}", night.after);
            assert!(night.after.troubles.is_empty() && night.after.remarks.is_empty(), "{:?}", night.after);
            is_whole(&format!("{address}/fleet/db:2026-01-02")).await;
            is_whole(&format!("{address}/fleet/db:2026-01-03")).await;
        }
        stop.interrupt();
    };
    tokio::join!(server.run(&stop), test);
    assert!(!model.requests().iter().any(|request| request.contains("tags/list")));
    assert!(!model.requests().iter().any(|request| request.starts_with("DELETE") && request.contains("sha256:")));
}

fn in_layout(rules: &str) -> (Keeper, std::path::PathBuf) {
    let keeper = Keeper::new(&file("to = \"oci:{HERE}/layout:{machine}-{night}\"", rules));
    let folder = keeper.path("layout");
    (keeper, folder)
}

fn froze(keeper: &Keeper, folder: &Path, day: i8) -> (String, Digest, smolfreeze::fleet::night::Night) {
    let (tag, image) = (format!("db-2026-01-{day:02}"), small(&day.to_string()));
    image.to_layout(folder, &tag);
    let name = format!("oci:{}:{tag}", folder.display());
    let night = keeper.froze(day, &name, image.digest());
    (name, image.digest(), night)
}

#[tokio::test]
async fn what_somebody_else_put_under_a_name_stays() {
    let (keeper, folder) = in_layout("keep_last = 1");
    let (name, ..) = froze(&keeper, &folder, 1);
    froze(&keeper, &folder, 2);
    let (.., night) = froze(&keeper, &folder, 3);
    Small::new("somebody", "else", "x").to_layout(&folder, "db-2026-01-01");
    let steps = keeper.preview(&night, &[]).await;
    assert_eq!(steps.len(), 2, "{steps:?}");
    assert!(matches!(&steps[0].what, What::Leaves(why) if why.contains("has its name now")), "{steps:?}");
    let night = keeper.after(night).await;
    assert_eq!(Keeper::removed(&night).len(), 1);
    assert!(night.after.remarks[0].contains(&name) && night.after.troubles.is_empty(), "{:?}", night.after);
    assert_eq!(tags(&folder), ["db-2026-01-01", "db-2026-01-03"]);
    is_whole(&name).await;
}

#[tokio::test]
async fn nothing_goes_where_tonights_is_gone_or_was_found_wrong() {
    for case in ["gone", "wrong"] {
        let verify = if case == "gone" { "" } else { "\n[policies.verify]" };
        let (keeper, folder) = in_layout(&format!("keep_last = 1{verify}"));
        froze(&keeper, &folder, 1);
        let (name, digest, mut night) = froze(&keeper, &folder, 2);
        if case == "gone" {
            smolfreeze::layout::Layout::make(&folder)
                .unwrap()
                .change_index(|all| {
                    all.pop();
                    Ok::<_, smolfreeze::error::Error>(())
                })
                .unwrap();
        }
        if case == "wrong" {
            let own = small("2").layers[2].0.digest;
            fs::write(folder.join("blobs/sha256").join(own.hex()), "x").unwrap();
        }
        // Nothing changes when it is run again.
        for _ in 0..2 {
            night = keeper.after(night).await;
            assert!(night.after.removed.is_empty(), "{case}: {:?}", night.after);
            let outcome = &night.outcomes[0];
            assert_eq!(outcome.fault().is_some(), case == "wrong", "{case}: {outcome:?}");
            assert_eq!(outcome.image.as_ref().unwrap().digest, digest);
            assert!(tags(&folder).contains(&"db-2026-01-01".to_owned()));
        }
        let kind = night.after.troubles.first().map(|trouble| &trouble.kind[..]);
        let expected = match case {
            "gone" => Some("sink"),
            // It was told when it was found.
            _ => None,
        };
        assert_eq!(kind, expected, "{case}: {:?}", night.after.troubles);
        if case == "wrong" {
            let said = keeper.ears.0.lock().unwrap().join("\n");
            assert!(said.contains(&format!("verifying {name} (machine 'db' at 'there') failed")), "{said}");
            // The next good one lets both go their way: the faulty one takes nobody's place.
            let (.., third) = froze(&keeper, &folder, 3);
            let third = keeper.after(third).await;
            assert_eq!(Keeper::removed(&third).len(), 2, "{:?}", third.after);
            assert_eq!(tags(&folder), ["db-2026-01-03"]);
        }
    }
}

#[tokio::test]
async fn nothing_goes_where_tonights_could_not_be_verified() {
    let mut registry = DockerRegistry::start();
    let to = format!("to = \"{}/fleet/{{machine}}:{{night}}\"\npatience = \"1s\"", registry.address);
    let keeper = Keeper::new(&file(&to, "keep_last = 1\n[policies.verify]"));
    let (first, night) = three(&keeper, registry.address, ["a", "b", "c"]).await;
    let address = registry.address;
    registry.kill();
    let night = keeper.after(night).await;
    assert!(night.after.removed.is_empty() && night.outcomes[0].verified.is_none(), "{:?}", night.after);
    let [trouble] = &night.after.troubles[..] else { panic!("{:?}", night.after) };
    assert!(trouble.kind == "sink" && trouble.text.contains(&address.to_string()), "{trouble:?}");
    assert_eq!(keeper.names().len(), 3, "{first}");
}

#[tokio::test]
async fn a_name_of_all_nights_is_one_snapshot() {
    let keeper = Keeper::new(&file("to = \"oci:{HERE}/layout:{machine}\"", "keep_last = 1"));
    let folder = keeper.path("layout");
    let mut night = None;
    for day in 1..4 {
        let image = small(&day.to_string());
        image.to_layout(&folder, "db");
        night = Some(keeper.froze(day, &format!("oci:{}:db", folder.display()), image.digest()));
    }
    let night = keeper.after(night.unwrap()).await;
    assert!(night.after.removed.is_empty() && night.after.remarks.is_empty(), "{:?}", night.after);
    assert_eq!(tags(&folder), ["db"]);
    assert_eq!(keeper.names().len(), 1);
}

/// However far it had come: what is gone is noted, what is not goes, and blobs that nothing needs do.
#[tokio::test]
async fn the_next_run_finishes_what_one_that_was_killed_had_begun() {
    for (done, collected) in [(0, false), (1, false), (3, false), (3, true)] {
        let (keeper, folder) = in_layout("keep_last = 1");
        let gone: Vec<_> = (1..4).map(|day| froze(&keeper, &folder, day)).collect();
        let (.., mut night) = froze(&keeper, &folder, 4);
        let machine = || "db".to_owned();
        let removing = gone.iter().map(|(name, digest, _)| Removed {
            machine: machine(),
            destination: "there".to_owned(),
            name: name.clone(),
            digest: *digest,
            at: night.runs[0].began,
        });
        night.after.removing = removing.collect();
        keeper.nights.write(&night).unwrap();
        smolfreeze::layout::Layout::make(&folder)
            .unwrap()
            .change_index(|all| {
                all.drain(..done);
                Ok::<_, smolfreeze::error::Error>(())
            })
            .unwrap();
        if collected {
            smolfreeze::layout::collect::collect(&folder, std::time::Duration::ZERO, true).unwrap();
        }
        // The next night's run.
        let (.., next) = froze(&keeper, &folder, 5);
        let steps = keeper.preview(&next, &[]).await;
        let next = keeper.after(next).await;
        assert_eq!(Keeper::removed(&next).len(), 4, "{:?}", next.after);
        assert_eq!(steps.len(), 4);
        assert_eq!(steps.iter().filter(|step| step.what == What::Finishes).count(), done, "{steps:?}");
        assert!(next.after.removing.is_empty() && next.after.troubles.is_empty(), "{:?}", next.after);
        assert_eq!((tags(&folder).len(), blobs(&folder)), (1, 5));
        assert_eq!(keeper.names().len(), 1);
        let again = keeper.after(next).await;
        assert_eq!(Keeper::removed(&again).len(), 4);
    }
}

#[tokio::test]
async fn an_artifact_goes_with_its_record_and_nobody_elses_does() {
    let host = Host::new();
    let (tree, agent) = (host.tree("tree", "echo 1 >file"), sidecar::agent(&host.path(".")).display().to_string());
    let mut keeper = Keeper::new(&file("pack = \"{HERE}/{machine}-{night}\"", "keep_last = 1"));
    keeper.host.state = host.path("home/.local/state/smolfreeze");
    let source = format!("dir:{}", tree.display());
    let layout = format!("oci:{}:kept", host.text("layout"));
    let mut last = None;
    for day in 1..4_i8 {
        fs::write(tree.join("file"), day.to_string()).unwrap();
        let pack = keeper.path(&format!("db-2026-01-{day:02}"));
        let mut words = vec![&*source, "--pack", pack.to_str().unwrap(), "--agent-rootfs", &agent];
        if day == 2 {
            words.extend(["--to", &layout]);
        }
        let snapshot = host.freeze(&words);
        let output = snapshot.outputs.last().unwrap();
        let mut night = keeper.froze(day, &output.name, output.digest);
        night.outcomes[0].image = Some(of(output.digest, snapshot.record.clone()));
        night.outcomes[0].verified = Some(found(night.runs[0].began, None));
        keeper.nights.write(&night).unwrap();
        last = Some(night);
    }
    // Not the fleet's, and where one of its own is expected.
    let foreign = keeper.path("db-2025-12-31.smolmachine");
    fs::copy(keeper.path("db-2026-01-01.smolmachine"), &foreign).unwrap();
    let records = |host: &Host| fs::read_dir(host.path("home/.local/state/smolfreeze/records")).unwrap().count();
    assert_eq!(records(&host), 3);
    let night = keeper.after(last.unwrap()).await;
    assert_eq!(Keeper::removed(&night).len(), 2, "{:?}", night.after);
    assert!(night.after.troubles.is_empty(), "{:?}", night.after);
    let there = |day: i8| keeper.path(&format!("db-2026-01-{day:02}.smolmachine")).exists();
    assert_eq!([there(1), there(2), there(3), foreign.exists()], [false, false, true, true]);
    // The second one's record tells of its layout alone.
    assert_eq!(records(&host), 2);
    let listed = crate::host::finish(host.command(&["ls", "--json"]).spawn().unwrap());
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let outputs: Vec<_> =
        listed.as_array().unwrap().iter().map(|one| one["outputs"].as_array().unwrap().len()).collect();
    assert_eq!((outputs, listed[0]["outputs"][0]["kind"].as_str()), (vec![1, 1], Some("layout")), "{listed}");
    host.verify(&layout);
}
