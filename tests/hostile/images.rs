//! Images in layouts.

use std::fs;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::host::{Host, shell};
use crate::run::refuses;
use crate::support::layers::descriptor;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layout that is made one blob at a time.
struct Made<'a> {
    host: &'a Host,
}

impl Made<'_> {
    fn new(host: &Host) -> Made<'_> {
        let _ = fs::remove_dir_all(host.path("l"));
        fs::create_dir_all(host.path("l/blobs/sha256")).unwrap();
        fs::write(host.path("l/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Made { host }
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let described = serde_json::to_value(descriptor(media_type, bytes)).unwrap();
        fs::write(self.path(&described), bytes).unwrap();
        described
    }

    fn path(&self, described: &Value) -> std::path::PathBuf {
        self.host.path("l/blobs").join(described["digest"].as_str().unwrap().replace(':', "/"))
    }

    fn document(&self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string().as_bytes())
    }

    fn index(&self, manifest: &Value) {
        let index = json!({"schemaVersion": 2, "manifests": [manifest]}).to_string();
        fs::write(self.host.path("l/index.json"), index).unwrap();
    }

    /// An image of one layer, whose diff_id is that of `tar`.
    fn image(&self, media_type: &str, stored: &[u8], tar: &[u8]) -> Value {
        let diff_id = descriptor("", tar).digest;
        let config =
            json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
        let config = self.document(CONFIG, &config);
        let layer = self.blob(media_type, stored);
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]})
    }

    fn tagged(&self, image: &Value) {
        self.index(&self.document(MANIFEST, image));
    }
}

/// A header of ustar.
fn header(name: &[u8], kind: u8, size: u64) -> Vec<u8> {
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

fn layer_of(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = entries.concat();
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// `head`, and then `gib` GiB of nothing, as a frame of zstd or a member of gzip.
fn bomb(head: &[u8], gib: usize, is_gzip: bool) -> Vec<u8> {
    let zeros = vec![0; 16 << 20];
    let fill = |out: &mut dyn std::io::Write| {
        out.write_all(head).unwrap();
        (0..gib * 64).for_each(|_| out.write_all(&zeros).unwrap());
    };
    if is_gzip {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        fill(&mut out);
        return out.finish().unwrap();
    }
    let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
    fill(&mut out);
    out.finish().unwrap()
}

#[test]
fn layers() {
    let host = Host::new();
    let file = |name: &[u8], size| header(name, b'0', size);
    let (zstd, gzip) = (format!("{TAR}+zstd"), format!("{TAR}+gzip"));
    let good = layer_of(&[file(b"f", 0)]);
    let mut broken = good.clone();
    broken[0] = b'x';
    let long_name = header(b"././@LongLink", b'L', 2 << 30);
    let pax = header(b"pax", b'x', 2 << 30);
    let cases: &[(&str, &str, Vec<u8>, &str)] = &[
        ("a GNU name of 2 GiB", &zstd, bomb(&long_name, 2, false), "layer sha256:"),
        ("a GNU link of 2 GiB", &zstd, bomb(&header(b"l", b'K', 2 << 30), 2, false), "layer sha256:"),
        ("a PAX record of 2 GiB", &zstd, bomb(&pax, 2, false), "layer sha256:"),
        ("a global PAX record of 2 GiB", &zstd, bomb(&header(b"g", b'g', 2 << 30), 2, false), "layer sha256:"),
        ("a zstd bomb", &zstd, bomb(&file(b"f", 4 << 30), 4, false), "layer sha256:"),
        ("a gzip bomb", &gzip, bomb(&file(b"f", 1 << 30), 1, true), "layer sha256:"),
        ("a file of 8 EiB", TAR, layer_of(&[file(b"f", u64::MAX >> 1)]), "ends early"),
        ("a wrong checksum", TAR, broken, "layer sha256:"),
        ("no tar", TAR, vec![b'x'; 5000], "layer sha256:"),
        ("no zstd", &zstd, good.clone(), "layer sha256:"),
        ("no gzip", &gzip, good.clone(), "layer sha256:"),
        ("half a frame of zstd", &zstd, vec![0x28, 0xb5, 0x2f, 0xfd, 0x04], "layer sha256:"),
        ("a window of 2 GiB", &zstd, vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 1, 0, 0], "layer sha256:"),
        ("more behind the end", TAR, [good.clone(), vec![1; 512]].concat(), "layer sha256:"),
        ("another diff_id", TAR, good.clone(), "the diff_id should be"),
        ("a media type of none", "text/html", good.clone(), "'text/html'"),
    ];
    let mut wrong = Vec::new();
    for (name, media_type, stored, said) in cases {
        let made = Made::new(&host);
        let image = made.image(media_type, stored, b"another tar");
        made.tagged(&image);
        wrong.extend(refuses(&host, name, &["verify", "oci:l"], said));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What makes of a good image a hostile one.
type Change<'a> = Box<dyn Fn(&Made<'_>, Value) + 'a>;

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn documents() {
    let host = Host::new();
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
        Box::new(move |made, _| fs::write(made.host.path("l/index.json"), &text).unwrap())
    };
    let cases: Vec<(&str, Change<'_>, &str)> = vec![
        (
            "a layer of another size",
            Box::new(|made, mut image| {
                image["layers"][0]["size"] = 7.into();
                made.tagged(&image);
            }),
            "the size should be 7",
        ),
        (
            "a layer of u64::MAX",
            Box::new(|made, mut image| {
                image["layers"] = json!([image["layers"][0], image["layers"][0]]);
                image["layers"][0]["size"] = u64::MAX.into();
                made.tagged(&image);
            }),
            "2 layers",
        ),
        (
            "a negative size",
            Box::new(|made, mut image| {
                image["layers"][0]["size"] = (-1).into();
                made.tagged(&image);
            }),
            "reading the manifest",
        ),
        (
            "a rotten layer",
            Box::new(|made, image| {
                fs::write(made.path(&image["layers"][0]), vec![0; 1536]).unwrap();
                made.tagged(&image);
            }),
            "the digest should be",
        ),
        (
            "a layer that is a pipe",
            Box::new(|made, image| {
                let path = made.path(&image["layers"][0]);
                fs::remove_file(&path).unwrap();
                shell(&made.host.path(""), &format!("mkfifo '{}'", path.display()));
                made.tagged(&image);
            }),
            "it is no file",
        ),
        (
            "a digest that leads out",
            Box::new(|made, mut image| {
                image["layers"][0]["digest"] = "sha256:../../../etc/passwd".into();
                made.tagged(&image);
            }),
            "is not sha256",
        ),
        (
            "a digest by SHA-512",
            Box::new(|made, mut image| {
                image["config"]["digest"] = format!("sha512:{}", "0".repeat(128)).into();
                made.tagged(&image);
            }),
            "sha512",
        ),
        (
            "a config of a terabyte",
            Box::new(|made, mut image| {
                image["config"]["size"] = (1_u64 << 40).into();
                made.tagged(&image);
            }),
            "too many for a manifest or config",
        ),
        (
            "a config that is no object",
            Box::new(|made, mut image| {
                image["config"] = made.document(CONFIG, &json!([1]));
                made.tagged(&image);
            }),
            "reading the config",
        ),
        (
            "a hostile config",
            Box::new(|made, mut image| {
                image["config"] = made.document(CONFIG, &json!({"rootfs": {"diff_ids": "\u{1b}[2J"}}));
                made.tagged(&image);
            }),
            "reading the config",
        ),
        ("no layers", Box::new(change("layers", Value::Null)), "reading the manifest"),
        ("an image and an index", Box::new(change("manifests", json!([]))), "taken for neither"),
        (
            "40,000 layers",
            Box::new(|made, mut image| {
                let mut layer = image["layers"][0].clone();
                layer["mediaType"] = "".into();
                image["layers"] = vec![layer; 30_000].into();
                made.tagged(&image);
            }),
            "more than 1024",
        ),
        ("deep JSON", text("[".repeat(100_000)), "recursion limit"),
        (
            "a million objects",
            text(format!("{{\"layers\":[{}]}}", vec!["{\"a\":0}"; 400_000].join(","))),
            "objects and lists",
        ),
        ("HTML", text("<html><body>".to_owned()), "'<html><body>'"),
        ("NUL", text("\0".repeat(1000)), r"\x00"),
        ("an index that is deep", raw("{\"manifests\":".to_owned() + &"[".repeat(100_000)), "reading the index"),
        (
            "an index of 64 MiB",
            raw(format!("{{\"manifests\":[{}0]}}", "0,".repeat(32 << 20))),
            "more than 4194304 bytes",
        ),
        ("an index without manifests", raw("{}".to_owned()), "lists no manifests"),
        ("an index that is empty", raw(String::new()), "reading the index"),
        (
            "an index that is a pipe",
            Box::new(|made, _| shell(&made.host.path("l"), "mkfifo index.json")),
            "it is no file",
        ),
        (
            "an index of zeros without an end",
            Box::new(|made, _| shell(&made.host.path("l"), "ln -s /dev/zero index.json")),
            "it is no file",
        ),
        (
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
    let mut wrong = Vec::new();
    for (name, change, said) in &cases {
        let made = Made::new(&host);
        change(&made, made.image(TAR, &tar, &tar));
        wrong.extend(refuses(&host, name, &["verify", "oci:l"], said));
    }
    // A broken index ends a freeze before anything is packed, and what was there stays.
    fs::create_dir(host.path("tree")).unwrap();
    fs::write(host.path("tree/f"), "x").unwrap();
    for (name, text, said) in [("broken", "{", "reading the index"), ("none", "{}", "lists no manifests")] {
        let _made = Made::new(&host);
        fs::write(host.path("l/index.json"), text).unwrap();
        wrong.extend(refuses(&host, name, &["freeze", "dir:tree", "--to", "oci:l", "--no-record"], said));
        assert_eq!(fs::read_to_string(host.path("l/index.json")).unwrap(), text);
        assert_eq!(fs::read_dir(host.path("l/blobs/sha256")).unwrap().count(), 0);
    }
    // And tars that must not become an image.
    for (name, path, said) in [("..", &b"../etc/passwd"[..], "'../etc/passwd'"), ("whiteout", b".wh.etc", ".wh.etc")] {
        let mut tar = fs::File::create(host.path("t.tar")).unwrap();
        tar.write_all(&layer_of(&[header(path, b'0', 0)])).unwrap();
        wrong.extend(refuses(&host, name, &["freeze", "tar:t.tar", "--to", "oci:new", "--no-record"], said));
        assert!(!host.path("new").exists());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
