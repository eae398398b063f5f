//! Bad input: one line that names the thing, the documented exit code, and nothing half-written.

use std::fs;
use std::path::Path;

use base64::Engine;

use crate::archive::{entry, pax, sized_entry, tar};
use crate::host::{Host, Tmpfs, names, open_sessions, shell, tags};
use crate::support::docker_registry::{DockerRegistry, Setup};
use crate::support::proxy::{Habits, Proxy};

/// User `alice`, password `correct horse`, bcrypt.
const HTPASSWD: &str = "alice:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n";

/// Three megabytes that no compression shrinks, so that something is under way when the fault comes.
fn noise() -> Vec<u8> {
    crate::support::layers::random_bytes(1, 3 << 20).to_vec()
}

/// Freezes `source` into a registry and a layout: it has to be refused, and both left as if nothing had been.
fn refused_everywhere(code: i32, subject: &str, source: &str, input: Option<&[u8]>) {
    let (host, registry) = (Host::new(), DockerRegistry::start());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let proxy = runtime.block_on(Proxy::start(registry.address, Habits::default(), vec![]));
    let name = format!("{}/space/name:tag", proxy.address);
    let layout = format!("oci:{}", host.text("layout"));
    let words = [source, "--to", &name, "--to", &layout, "--layer-size", "1MiB"];
    host.refuses_from(code, subject, &words, input);
    assert!(tags(&registry, "space/name").is_empty(), "{source}: a tag");
    assert_eq!(open_sessions(&proxy), Vec::<String>::new(), "{source}");
    assert!(!host.path("layout").exists(), "{source}: a layout of {:?}", names(&host.path("layout")));
    assert!(names(&host.path("scratch")).is_empty(), "{source}: scratch files");
}

#[test]
fn a_tar_that_is_cut_off_is_no_image() {
    let host = Host::new();
    let noise = noise();
    let whole = tar(&[entry("./a", b'0', &noise), entry("./b", b'0', &noise), entry("./c", b'0', b"end")]);
    let first = 512 + noise.len();
    // In a header, in content, between two entries, before the second half of the end mark's first block, in the middle
    // of nothing at all.
    for length in [0, 100, 5_000, first - 1, first, first + 300, 2 * first + 512, whole.len() - 1024 - 100] {
        refused_everywhere(3, "cut off", "tar:-", Some(&whole[..length]));
        let file = host.path("t.tar");
        fs::write(&file, &whole[..length]).expect("a file");
        refused_everywhere(3, "cut off", &format!("tar:{}", file.display()), None);
    }
}

#[test]
fn a_compressed_tar_that_is_cut_off_is_no_image() {
    let host = Host::new();
    fs::write(host.path("t.tar"), tar(&[entry("./a", b'0', &noise()), entry("./b", b'0', &noise())])).expect("a file");
    shell(&host.path("."), "gzip -1k t.tar; zstd -qk t.tar");
    for packed in ["t.tar.gz", "t.tar.zst"] {
        let bytes = fs::read(host.path(packed)).expect("a file");
        for length in [20, bytes.len() / 3, bytes.len() - 9, bytes.len() - 1] {
            let file = host.path("cut");
            fs::write(&file, &bytes[..length]).expect("a file");
            refused_everywhere(3, "cut off", &format!("tar:{}", file.display()), None);
            refused_everywhere(3, "cut off", "tar:-", Some(&bytes[..length]));
        }
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 0x40;
        fs::write(host.path("flipped"), &flipped).expect("a file");
        let file = host.text("flipped");
        refused_everywhere(3, &file, &format!("tar:{file}"), None);
    }
}

#[test]
fn a_hostile_tar_is_no_image() {
    let fine = entry("./fine", b'0', &noise());
    let with = |bad: Vec<u8>| tar(&[fine.clone(), bad]);
    let cases = [
        ("'../x'", with(entry("../x", b'0', b"x"))),
        ("'./a/../../x'", with(entry("./a/../../x", b'0', b"x"))),
        ("'/etc/x'", with(entry("/etc/x", b'0', b"x"))),
        ("'./a/.wh.x'", with(entry("./a/.wh.x", b'0', b""))),
        ("'./.wh..wh..opq'", with(entry("./.wh..wh..opq", b'0', b""))),
        ("'../hidden'", with([pax("path", "../hidden"), entry("shown", b'0', b"x")].concat())),
        ("2000", with([pax("size", "2000"), entry("two-sizes", b'0', &[1; 1000])].concat())),
        ("'folder-with-size'", with([pax("size", "9"), sized_entry("folder-with-size", b'5', b"", 0)].concat())),
        ("checksum", with(vec![1; 512])),
        ("cut off", with(sized_entry("says-more", b'0', b"less", 5_000_000))),
    ];
    for (subject, bytes) in cases {
        refused_everywhere(3, subject, "tar:-", Some(&bytes));
    }
    // What is left out does not matter.
    let host = Host::new();
    fs::write(host.path("hostile.tar"), with(entry("../x", b'0', b"x"))).expect("a file");
    let source = format!("tar:{}", host.text("hostile.tar"));
    let line = host.refuses(3, "--exclude", &[&source, "--to", &format!("oci:{}", host.text("layout"))]);
    let hint = line.trim_end().rsplit_once("--exclude ").expect("a hint").1.trim_matches('\'');
    host.freeze(&[&source, "--to", &format!("oci:{}", host.text("layout")), "--exclude", hint]);
}

#[test]
fn what_is_not_there_or_cannot_be_read_is_named() {
    let host = Host::new();
    let nowhere = host.text("nowhere");
    fs::write(host.path("file"), "x").expect("a file");
    for (subject, source) in [
        (&*nowhere, format!("dir:{nowhere}")),
        (&nowhere, format!("tar:{nowhere}")),
        ("file", format!("dir:{}", host.text("file"))),
        ("home", format!("tar:{}", host.text("home"))),
    ] {
        refused_everywhere(3, subject, &source, None);
    }
    // It can be written, but not be read, by root neither.
    if Path::new("/sys/bus/cpu/drivers_probe").exists() {
        let exclude = ["dir:/sys/bus/cpu", "--exclude", "/devices", "--exclude", "/drivers"];
        let layout = format!("oci:{}", host.text("layout"));
        host.refuses(3, "'./drivers_probe'", &[&exclude[..], &["--to", &layout]].concat());
        assert!(!host.path("layout").exists());
    }
}

#[test]
fn a_typo_is_named() {
    let host = Host::new();
    let tree = format!("dir:{}", host.tree("tree", "echo x >x").display());
    let layout = format!("oci:{}", host.text("layout"));
    let cases: [(&str, &[&str]); 11] = [
        ("localhost:1/UPPER", &[&*tree, "--to", "localhost:1/UPPER:tag"]),
        ("localhost:1/a:b:c", &[&tree, "--to", "localhost:1/a:b:c"]),
        ("'oci:'", &[&tree, "--to", "oci:"]),
        ("'/usr'", &["/usr", "--to", &layout]),
        ("'dri:/usr'", &["dri:/usr", "--to", &layout]),
        ("--layer-size", &[&tree, "--to", &layout, "--layer-size=nonsense"]),
        ("--layer-size", &[&tree, "--to", &layout, "--layer-size=-1"]),
        ("--memory", &[&tree, "--to", &layout, "--memory=1MiB"]),
        ("--uploads", &[&tree, "--to", &layout, "--uploads=0"]),
        ("99", &[&tree, "--to", &layout, "--level=99"]),
        ("lzma", &[&tree, "--to", &layout, "--compression=lzma"]),
    ];
    for (subject, words) in cases {
        host.refuses(2, subject, words);
        assert!(!host.path("layout").exists(), "{words:?}");
    }
    let mut command = host.command(&["freeze", "--quiet", &tree, "--to", &layout]);
    let output = command.env("SOURCE_DATE_EPOCH", "yesterday").output().expect("the command");
    assert_eq!(output.status.code(), Some(2));
    assert!(crate::host::one_line(&output).contains("'yesterday'"));
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let host = Host::new();
    let tree = format!("dir:{}", host.tree("tree", "echo x >x").display());
    // Bound and dropped: nobody listens.
    let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let layout = format!("oci:{}", host.text("layout"));
    let words = [&*tree, "--to", &layout, "--to", &format!("{address}/space/name:tag")];
    host.refuses(4, &address.to_string(), &words);
    assert!(!host.path("layout").exists());
}

#[test]
fn wrong_credentials_are_named_and_not_shown() {
    let registry = DockerRegistry::start_with(&Setup { htpasswd: Some(HTPASSWD.to_owned()), ..Setup::default() });
    let host = Host::new();
    let tree = format!("dir:{}", host.tree("tree", "echo x >x").display());
    let name = format!("{}/space/name:tag", registry.address);
    fs::create_dir(host.path("home/.docker")).expect("a folder");
    for (user, is_right) in [("", false), ("alice:a wrong word", false), ("alice:correct horse", true)] {
        let encoded = base64::engine::general_purpose::STANDARD.encode(user);
        let auths = format!(r#"{{"auths":{{"{}":{{"auth":"{encoded}"}}}}}}"#, registry.address);
        fs::write(host.path("home/.docker/config.json"), if user.is_empty() { "{}" } else { &auths }).expect("a file");
        let words = [&*tree, "--to", &name];
        if is_right {
            host.freeze(&words);
            host.verify(&name);
        } else {
            let line = host.refuses(5, &registry.address.to_string(), &words);
            assert!(!line.contains("wrong word") && (user.is_empty() || !line.contains(&encoded)), "{line}");
            assert!(tags(&registry, "space/name").is_empty());
        }
    }
}

#[test]
fn a_full_disk_is_named_and_left_as_it_was() {
    let host = Host::new();
    let tree =
        format!("dir:{}", host.tree("tree", "for i in {1..12}; do head -c 2000000 /dev/urandom >$i; done").display());
    let small = format!("dir:{}", host.tree("small", "echo x >x").display());
    let disk = host.tree("disk", "");
    let _mounted = Tmpfs::mount(&disk, "8m");
    let (old, layout) = (format!("oci:{}/layout:old", disk.display()), format!("oci:{}/layout:new", disk.display()));
    for layer_size in ["1MiB", "0"] {
        host.refuses(4, "No space left", &[&tree, "--to", &layout, "--layer-size", layer_size]);
        assert!(names(&disk).is_empty(), "{:?}", names(&disk));
    }
    host.freeze(&[&small, "--to", &old]);
    let (index, blobs) = (disk.join("layout/index.json"), disk.join("layout/blobs/sha256"));
    let (index_before, blobs_before) = (fs::read(&index).expect("an index"), names(&blobs));
    host.refuses(4, &disk.display().to_string(), &[&tree, "--to", &layout, "--layer-size", "1MiB"]);
    assert_eq!(fs::read(&index).expect("an index"), index_before);
    // A blob that has its name may be somebody else's by now: it stays, and gc tells of it.
    assert!(blobs_before.iter().all(|name| names(&blobs).contains(name)));
    host.verify(&old);
}
