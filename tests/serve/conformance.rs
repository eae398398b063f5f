//! The table of the specification's points, run.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::json;

use crate::host::Host;
use crate::images::{INDEX_MEDIA_TYPE, digest, image, named};
use crate::served::Served;
use crate::support::docker_registry::DockerRegistry;
use crate::support::layers::{descriptor, random_bytes};
use crate::table::{ROWS, Row, Who};
use crate::wire::{Answer, ask};

/// The things that rows name.
struct Run {
    address: SocketAddr,
    words: BTreeMap<String, String>,
    bodies: BTreeMap<&'static str, Bytes>,
    location: String,
}

impl Run {
    fn new(address: SocketAddr) -> Self {
        let blob = random_bytes(1, 10_000);
        let more = json!({"annotations": {"made": "for a test"}});
        let image_of_ours = image(2, &more);
        // The blob is the image's second layer.
        let mut manifest: serde_json::Value = serde_json::from_slice(&image_of_ours.manifest).unwrap();
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar", &blob);
        manifest["layers"].as_array_mut().unwrap().push(json!(layer));
        let manifest = Bytes::from(manifest.to_string());
        let signature = image(
            2,
            &json!({
                "subject": named(&manifest), "artifactType": "application/vnd.example.signature", "annotations": {"who": "a test"},
            }),
        );
        let index = |of: &[u8]| {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE, "manifests": [named(of)]});
            Bytes::from(index.to_string())
        };
        let bodies = BTreeMap::from([
            ("", Bytes::new()),
            ("blob", blob),
            ("config", image_of_ours.config),
            ("layer", image_of_ours.layer),
            ("index", index(&manifest)),
            ("manifest", manifest),
            ("signature", signature.manifest),
            ("hollow", image(3, &json!({})).manifest),
            ("hollow index", index(b"nothing")),
            ("five megabytes", vec![b' '; 5 << 20].into()),
        ]);
        let mut words: BTreeMap<_, _> = bodies.iter().map(|(name, body)| ((*name).to_owned(), digest(body))).collect();
        words.insert("absent".into(), digest(b"nowhere"));
        words.insert("name".into(), "team/app".into());
        words.insert("other".into(), "other".into());
        Self { address, words, bodies, location: String::new() }
    }

    fn fill(&self, text: &str) -> String {
        let mut text = text.replace("{location}", &self.location);
        // A session's location may have a query already.
        if self.location.contains('?') {
            text = text.replace("?digest=", "&digest=");
        }
        for (name, value) in &self.words {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        text
    }

    fn body(&self, name: &str) -> Bytes {
        match name.split_once('[') {
            Some((whole, range)) => {
                let (from, to) = range.trim_end_matches(']').split_once("..").unwrap();
                self.bodies[whole].slice(from.parse::<usize>().unwrap()..to.parse().unwrap())
            }
            None => self.bodies[name].clone(),
        }
    }

    fn run(&mut self, row: &Row) -> Result<(), String> {
        let request = self.fill(row.request);
        let (method, target) = request.split_once(' ').unwrap();
        let headers: Vec<_> = row.headers.lines().map(|line| line.split_once(": ").unwrap()).collect();
        let answer = ask(self.address, method, target, &headers, &self.body(row.body));
        self.compare(row, &answer)
            .map_err(|reason| format!("{}: {request}: {reason}: {}", row.point, answer.text()))?;
        if answer.header("location").is_some() {
            self.location = answer.location();
        }
        Ok(())
    }

    fn compare(&self, row: &Row, answer: &Answer) -> Result<(), String> {
        if answer.status != row.status {
            return Err(format!("{} instead of {}", answer.status, row.status));
        }
        for line in row.has.lines() {
            let (name, wanted) = line.split_once(": ").unwrap();
            let found =
                if name == "location" { Some(answer.location()) } else { answer.header(name).map(str::to_owned) };
            let wanted = self.fill(wanted);
            if found.as_ref().is_none_or(|found| wanted != "*" && *found != wanted) {
                return Err(format!("{name} is {found:?} instead of {wanted:?}"));
            }
        }
        if let Some(name) = row.says.strip_prefix('{').and_then(|rest| rest.strip_suffix("'s bytes}")) {
            return if answer.body == self.bodies[name] { Ok(()) } else { Err(format!("it is not {name}")) };
        }
        let says = self.fill(row.says);
        if answer.text().contains(&says) { Ok(()) } else { Err(format!("it does not say {says}")) }
    }
}

/// Runs every row, and tells of all that are not so.
fn run_all(address: SocketAddr, is_for: impl Fn(&Row) -> bool) {
    let mut run = Run::new(address);
    let rows: Vec<_> = ROWS.iter().filter(|row| is_for(row)).collect();
    let faults: Vec<_> = rows.iter().filter_map(|row| run.run(row).err()).collect();
    assert!(faults.is_empty(), "{} of {} rows:\n{}", faults.len(), rows.len(), faults.join("\n"));
    assert!(rows.len() > 50, "the table has {} rows; is it whole?", rows.len());
}

#[test]
fn every_point_holds() {
    let host = Host::new();
    let served = Served::start(&host, "layout");
    run_all(served.address, |_| true);
    assert_eq!(served.blobs().len(), 3, "config, layer, and the file of a session that is open: {:?}", served.blobs());
}

#[test]
fn the_table_is_true_of_another_registry() {
    let registry = DockerRegistry::start();
    run_all(registry.address, |row| row.who == Who::Both);
}
