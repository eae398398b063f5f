//! Images in layouts.

use std::fs;

use serde_json::{Value, json};

use crate::host::{Host, names, shell};
use crate::run::Called::{Freeze, Thaw, Verify};
use crate::run::{Called, Case, READERS, prepared, refuse};
use crate::support::layers::descriptor;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layout that is made one blob at a time.
pub struct Made<'a> {
    host: &'a Host,
    folder: String,
}

impl Made<'_> {
    pub fn new(host: &Host, number: usize) -> Made<'_> {
        let made = Made { host, folder: format!("l{number}") };
        fs::create_dir_all(made.in_folder("blobs/sha256")).unwrap();
        fs::write(made.in_folder("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        made
    }

    /// What users call it.
    pub fn name(&self) -> String {
        format!("oci:{}", self.folder)
    }

    fn in_folder(&self, name: &str) -> std::path::PathBuf {
        self.host.path(&self.folder).join(name)
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let described = serde_json::to_value(descriptor(media_type, bytes)).unwrap();
        fs::write(self.path(&described), bytes).unwrap();
        described
    }

    fn path(&self, described: &Value) -> std::path::PathBuf {
        self.in_folder("blobs").join(described["digest"].as_str().unwrap().replace(':', "/"))
    }

    fn document(&self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string().as_bytes())
    }

    fn index(&self, manifest: &Value) {
        let index = json!({"schemaVersion": 2, "manifests": [manifest]}).to_string();
        fs::write(self.in_folder("index.json"), index).unwrap();
    }

    /// An image of one layer, whose diff_id is that of `tar`.
    pub fn image(&self, media_type: &str, stored: &[u8], tar: &[u8]) -> Value {
        let diff_id = descriptor("", tar).digest;
        let config =
            json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
        let config = self.document(CONFIG, &config);
        let layer = self.blob(media_type, stored);
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]})
    }

    pub fn tagged(&self, image: &Value) {
        self.index(&self.document(MANIFEST, image));
    }
}

/// A header of ustar.
pub fn header(name: &[u8], kind: u8, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    if size < 1 << 33 {
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

pub fn layer_of(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = entries.concat();
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// What makes of a good image a hostile one.
type Change<'a> = Box<dyn Fn(&Made<'_>, Value) + 'a>;

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn documents() {
    let host = prepared();
    let tar = layer_of(&[header(b"f", b'0', 0)]);
    let change = |key: &'static str, value: Value| {
        move |made: &Made<'_>, mut image: Value| {
            image[key] = value.clone();
            made.tagged(&image);
        }
    };
    let text =
        |text: String| -> Change<'_> { Box::new(move |made, _| made.index(&made.blob(MANIFEST, text.as_bytes()))) };
    let raw = |text: String| -> Change<'_> {
        Box::new(move |made, _| fs::write(made.in_folder("index.json"), &text).unwrap())
    };
    let of_layers: &[Called] = &[Verify, Thaw];
    let cases: Vec<(&[Called], &str, Change<'_>, &str)> = vec![
        (
            of_layers,
            "a layer of another size",
            Box::new(|made, mut image| {
                image["layers"][0]["size"] = 7.into();
                made.tagged(&image);
            }),
            "the size should be 7",
        ),
        (
            of_layers,
            "a layer of u64::MAX",
            Box::new(|made, mut image| {
                image["layers"] = json!([image["layers"][0], image["layers"][0]]);
                image["layers"][0]["size"] = u64::MAX.into();
                made.tagged(&image);
            }),
            "2 layers",
        ),
        (
            &READERS,
            "a negative size",
            Box::new(|made, mut image| {
                image["layers"][0]["size"] = (-1).into();
                made.tagged(&image);
            }),
            "reading the manifest",
        ),
        (
            of_layers,
            "a rotten layer",
            Box::new(|made, image| {
                fs::write(made.path(&image["layers"][0]), vec![0; 1536]).unwrap();
                made.tagged(&image);
            }),
            "the digest should be",
        ),
        (
            of_layers,
            "a layer that is a pipe",
            Box::new(|made, image| {
                let path = made.path(&image["layers"][0]);
                fs::remove_file(&path).unwrap();
                shell(&made.in_folder(""), &format!("mkfifo '{}'", path.display()));
                made.tagged(&image);
            }),
            "it is no file",
        ),
        (
            &READERS,
            "a digest that leads out",
            Box::new(|made, mut image| {
                image["layers"][0]["digest"] = "sha256:../../../etc/passwd".into();
                made.tagged(&image);
            }),
            "is not sha256",
        ),
        (
            &READERS,
            "a digest by SHA-512",
            Box::new(|made, mut image| {
                image["config"]["digest"] = format!("sha512:{}", "0".repeat(128)).into();
                made.tagged(&image);
            }),
            "sha512",
        ),
        (
            &READERS,
            "a config of a gigabyte that says so little",
            Box::new(|made, image| {
                fs::File::create(made.path(&image["config"])).unwrap().set_len(1 << 30).unwrap();
                made.tagged(&image);
            }),
            "longer than its",
        ),
        (
            &READERS,
            "100,000 platforms",
            Box::new(|made, image| {
                let mut entry = made.document(MANIFEST, &image);
                entry["platform"] = json!({"os": "x", "architecture": "y"});
                made.index(&made.document(INDEX, &json!({"manifests": vec![entry; 100_000]})));
            }),
            "too many for a manifest or config",
        ),
        (
            &READERS,
            "15,000 other platforms",
            Box::new(|made, image| {
                let mut entry = made.document(MANIFEST, &image);
                entry["platform"] = json!({"os": "x", "architecture": "y"});
                made.index(&made.document(INDEX, &json!({"manifests": vec![entry; 15_000]})));
            }),
            "x/y",
        ),
        (
            &READERS,
            "a config of a terabyte",
            Box::new(|made, mut image| {
                image["config"]["size"] = (1_u64 << 40).into();
                made.tagged(&image);
            }),
            "too many for a manifest or config",
        ),
        (
            of_layers,
            "a config that is no object",
            Box::new(|made, mut image| {
                image["config"] = made.document(CONFIG, &json!([1]));
                made.tagged(&image);
            }),
            "reading the config",
        ),
        (
            of_layers,
            "a hostile config",
            Box::new(|made, mut image| {
                image["config"] = made.document(CONFIG, &json!({"rootfs": {"diff_ids": "\u{1b}[2J"}}));
                made.tagged(&image);
            }),
            "reading the config",
        ),
        (&READERS, "no layers", Box::new(change("layers", Value::Null)), "reading the manifest"),
        (&READERS, "an image and an index", Box::new(change("manifests", json!([]))), "taken for neither"),
        (
            &READERS,
            "40,000 layers",
            Box::new(|made, mut image| {
                let mut layer = image["layers"][0].clone();
                layer["mediaType"] = "".into();
                image["layers"] = vec![layer; 30_000].into();
                made.tagged(&image);
            }),
            "more than 1024",
        ),
        (&READERS, "deep JSON", text("[".repeat(100_000)), "recursion limit"),
        (
            &READERS,
            "a million objects",
            text(format!("{{\"layers\":[{}]}}", vec!["{\"a\":0}"; 400_000].join(","))),
            "objects and lists",
        ),
        (&READERS, "HTML", text("<html><body>".to_owned()), "'<html><body>'"),
        (&READERS, "NUL", text("\0".repeat(1000)), r"\x00"),
        (
            &READERS,
            "an index that is deep",
            raw("{\"manifests\":".to_owned() + &"[".repeat(100_000)),
            "reading the index",
        ),
        (
            &READERS,
            "an index of 64 MiB",
            raw(format!("{{\"manifests\":[{}0]}}", "0,".repeat(32 << 20))),
            "more than 4194304 bytes",
        ),
        (&READERS, "an index without manifests", raw("{}".to_owned()), "lists no manifests"),
        (&READERS, "an index that is empty", raw(String::new()), "reading the index"),
        (
            &READERS,
            "an index that is a pipe",
            Box::new(|made, _| shell(&made.in_folder(""), "mkfifo index.json")),
            "it is no file",
        ),
        (
            &READERS,
            "an index of zeros without an end",
            Box::new(|made, _| shell(&made.in_folder(""), "ln -s /dev/zero index.json")),
            "it is no file",
        ),
        (
            &READERS,
            "an index that names itself",
            Box::new(|made, _| {
                let own = json!({"mediaType": INDEX, "digest": format!("sha256:{}", "0".repeat(64)), "size": 1});
                let index = made.document(INDEX, &json!({"manifests": [own]}));
                fs::copy(made.path(&index), made.path(&own)).unwrap();
                made.index(&index);
            }),
            "longer than",
        ),
        (
            &READERS,
            "20 indexes in each other",
            Box::new(|made, image| {
                let mut inner = made.document(MANIFEST, &image);
                for _ in 0..20 {
                    inner = made.document(INDEX, &json!({"manifests": [inner]}));
                }
                made.index(&inner);
            }),
            "more than 8 indexes",
        ),
    ];
    let mut runs = Vec::new();
    for (number, (called, name, change, said)) in cases.iter().enumerate() {
        let made = Made::new(&host, number);
        change(&made, made.image(TAR, &tar, &tar));
        runs.extend(called.iter().map(|called| Case::new(name, called.words(&made.name()), said)));
    }
    // A broken index ends a freeze before anything is packed, and what was there stays.
    let mut left = Vec::new();
    for (name, text, said) in [("broken", "{", "reading the index"), ("none", "{}", "lists no manifests")] {
        let made = Made::new(&host, cases.len() + left.len());
        fs::write(made.in_folder("index.json"), text).unwrap();
        runs.push(Case::new(name, Freeze.words(&made.name()), said));
        left.push((made, text));
    }
    host.tree("new", "");
    // And tars that must not become an image.
    for (name, path, said) in [("up", &b"../etc/passwd"[..], "'../etc/passwd'"), ("whiteout", b".wh.etc", ".wh.etc")] {
        let file = format!("{name}.tar");
        fs::write(host.path(&file), layer_of(&[header(path, b'0', 0)])).unwrap();
        let words = ["freeze", &format!("tar:{file}"), "--to", &format!("oci:new/{name}"), "--no-record"];
        runs.push(Case::new(name, words.map(str::to_owned).into(), said));
    }
    let wrong = refuse(&host, &runs);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), runs.len(), wrong.join("\n"));
    assert_eq!(names(&host.path("new")), Vec::<String>::new());
    for (made, text) in left {
        assert_eq!(fs::read_to_string(made.in_folder("index.json")).unwrap(), text);
        assert_eq!(fs::read_dir(made.in_folder("blobs/sha256")).unwrap().count(), 0);
    }
}
