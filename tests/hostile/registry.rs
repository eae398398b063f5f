//! A registry that is as it should be but for one place, where it answers as a test says.

use serde_json::json;

use crate::images::{CONFIG, MANIFEST, TAR, header, layer_of};
use crate::run::Called::{Freeze, Inspect, Thaw, Verify};
use crate::run::{Called, READERS};
use crate::support::layers::descriptor;
use crate::support::scripted::{Reply, Scripted};

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Ping,
    Token,
    Manifest,
    Config,
    Layer,
    /// Whether a blob is there.
    Head,
    /// A new upload session.
    Open,
    /// A blob.
    Send,
    /// The manifest, written.
    Tag,
}

impl Place {
    /// The commands that ask for it.
    pub fn asked_by(self) -> &'static [Called] {
        match self {
            Self::Ping | Self::Token => &[Inspect, Verify, Thaw, Freeze],
            Self::Manifest | Self::Config => &READERS,
            Self::Layer => &[Verify, Thaw],
            Self::Head | Self::Open | Self::Send | Self::Tag => &[Freeze],
        }
    }

    fn of(method: &str, path: &str, layer: &str) -> Self {
        match (method, path) {
            _ if path.contains("/token") => Self::Token,
            ("GET", _) if path.contains("/manifests/") => Self::Manifest,
            ("GET", _) if path.ends_with(layer) => Self::Layer,
            ("GET", _) if path.contains("/blobs/sha256:") => Self::Config,
            ("HEAD", _) => Self::Head,
            ("POST", _) => Self::Open,
            ("PUT", _) if path.contains("/manifests/") => Self::Tag,
            ("PUT" | "PATCH", _) => Self::Send,
            _ => Self::Ping,
        }
    }
}

pub fn whole(status: u16, headers: &str, body: &str) -> Reply {
    Reply::Whole(status, headers.to_owned(), body.as_bytes().to_vec())
}

/// Answers `place` by `script`, which is given the path, and everything else as a registry does.
pub fn good_but(place: Place, script: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Scripted {
    let tar = layer_of(&[header(b"f", b'0', 0)]);
    let layer = descriptor(TAR, &tar);
    let config =
        json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [layer.digest]}});
    let config = config.to_string();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, config.as_bytes()), "layers": [layer],
    });
    let (manifest, name) = (manifest.to_string(), layer.digest.to_string());
    Scripted::start(move |method, path| {
        let asked = Place::of(method, path, &name);
        // Who asks for a token was refused before.
        let is_answered = asked == place || (place == Place::Token && asked == Place::Ping);
        match asked {
            _ if is_answered => script(path),
            Place::Ping | Place::Token => whole(200, "", "{}"),
            Place::Manifest => whole(200, &format!("Content-Type: {MANIFEST}\r\n"), &manifest),
            Place::Config => whole(200, "", &config),
            Place::Layer => Reply::Whole(200, String::new(), tar.clone()),
            Place::Head => whole(404, "", ""),
            Place::Open => whole(202, "Location: /v2/a/b/blobs/uploads/1\r\n", ""),
            Place::Send | Place::Tag => whole(201, "", ""),
        }
    })
}
