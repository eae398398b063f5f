//! Where a registry sends us. One that is not on this host is played through a proxy that is: nobody else is asked.

use std::sync::{Arc, Mutex};

use crate::registry::Place::{Config, Layer, Manifest, Open, Ping, Send, Tag};
use crate::registry::{Place, good_but, whole};
use crate::run::{Case, prepared, refuse};
use crate::support::scripted::Reply;

/// The registry, for documentation by its address (RFC 5737), and another host.
const REGISTRY: &str = "203.0.113.7:5000";
const OTHER: &str = "203.0.113.8:5000";

/// Answers `place` by `script`, and runs all that ask for it through the server as a proxy, with credentials at hand.
fn refuse_all(rows: &[(String, &[Place], Reply, &str)]) {
    let host = prepared();
    host.tree("home/.docker", "echo '{\"auths\":{\"203.0.113.7:5000\":{\"auth\":\"dTpw\"}}}' >config.json");
    let (asked, mut cases) = (Arc::new(Mutex::new(Vec::new())), Vec::new());
    for (name, places, reply, said) in rows {
        for place in *places {
            let (reply, log) = (reply.clone(), Arc::clone(&asked));
            let server = good_but(*place, move |path| {
                log.lock().unwrap().push(path.to_owned());
                reply.clone()
            });
            for called in place.asked_by() {
                let mut words = called.of_registry(&format!("{REGISTRY}/a/b:v1"));
                words.push("--plain-http".to_owned());
                let variables = vec![("HTTP_PROXY", format!("http://{}", server.address))];
                cases.push(Case { variables, ..Case::new(&format!("{name}, at {place:?}"), words, said) });
            }
        }
    }
    let wrong = refuse(&host, &cases);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let asked = asked.lock().unwrap();
    assert!(
        !asked.is_empty() && asked.iter().all(|path| path.starts_with(&format!("http://{REGISTRY}/"))),
        "{asked:?}"
    );
}

const INNER: [&str; 10] = [
    "127.0.0.1:5000",
    "10.1.2.3",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "2130706433",
    "[::1]",
    "[fe80::1]",
    "[::ffff:10.0.0.1]",
];

#[test]
fn redirects_into_our_networks() {
    let all: &[Place] = &[Ping, Manifest, Config, Layer, Open, Send, Tag];
    let row = |(number, host): (usize, &&str)| {
        let reply = whole(307, &format!("Location: http://{host}/latest/meta-data\r\n"), "");
        let places = if number == 0 { all } else { &all[1..2] };
        (format!("a redirect to {host}"), places, reply, "an address inside this network")
    };
    refuse_all(&INNER.iter().enumerate().map(row).collect::<Vec<_>>());
}

#[test]
fn sessions_in_our_networks() {
    let place: &[Place] = &[Open];
    let row = |host: &&str| {
        let reply = whole(202, &format!("Location: http://{host}/v2/a/b/blobs/uploads/1\r\n"), "");
        (format!("a session at {host}"), place, reply, "an address inside this network")
    };
    refuse_all(&INNER.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn realms() {
    let place: &[Place] = &[Ping];
    let row = |(realm, said): (&str, &'static str)| {
        let reply = whole(401, &format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\n"), "");
        (format!("a realm at {realm}"), place, reply, said)
    };
    let other = format!("http://{OTHER}/token");
    let rows = [
        ("http://127.0.0.1:5000/token", "an address inside this network"),
        ("https://10.1.2.3/token", "an address inside this network"),
        ("http://169.254.169.254/latest/meta-data", "an address inside this network"),
        (&other, "another host, without TLS"),
        ("ldap://203.0.113.7/token", "not http"),
    ];
    refuse_all(&rows.map(row));
}
