//! Images of others: what their layers delete and replace is deleted and replaced in the artifact, as umoci unpacks them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::host::{finish, shell};
use crate::standin::Kind;
use crate::thawing::Thawing;
use crate::trees::{Keeps, assert_same, inventory};

/// Makes `layout:t`: each call of `layer` adds what lies in `l`, or the tar on its standard input.
const BEGIN: &str = r#"
umoci init --layout layout; umoci new --image layout:t
raw() { cat >l.tar; umoci raw add-layer --image layout:t l.tar >/dev/null 2>&1; }
layer() { touch -d @1700000000 $(find l) ; tar -C l --sort=name --numeric-owner --xattrs -cf - "$@" | raw; rm -rf l; mkdir l; }
mkdir l
"#;

/// Deletions, opaque folders, kinds that change, links within and between layers, folders that are only implied.
const LAYERS: &str = r#"
cd l; mkdir -p a/b/c d/e opq/old keep tmp/x only; chmod 1777 tmp; chmod 0700 only; chown 3:4 only
for f in a/b/c/f a/g d/e/h d/i opq/old/f opq/g keep/f tmp/x/f only/f was-file was-link-target; do echo "$f" >$f; done
ln a/g a/hard; ln a/g keep/hard-of-g; ln keep/f keep/second; ln d/i d/i2; echo x >d/deep; ln d/deep keep/deep
ln -s a soft; mkdir folder-then-file; echo in >folder-then-file/in; echo link >chain; cd ..
layer .
cd l; mkdir a opq d keep; >a/.wh.g; >opq/.wh..wh..opq; echo new >opq/new; >d/.wh.e; >.wh.was-file; echo over >folder-then-file; echo two >keep/f; cd ..
layer a opq d .wh.was-file folder-then-file keep
cd l; mkdir was-file; echo below >was-file/below; mkdir -p d/e; echo again >d/e/again; rm -rf soft; mkdir soft; echo s >soft/s; cd ..
layer was-file d soft
# A link to a file of the lowest layer; a folder that is only implied, and one in which something is deleted.
python3 - <<'P' | raw
import sys, tarfile, io
t = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.GNU_FORMAT)
def add(name, kind=tarfile.REGTYPE, link='', content=b''):
    e = tarfile.TarInfo(name); e.type = kind; e.linkname = link; e.size = len(content); e.mtime = 1700000000; e.mode = 0o640
    t.addfile(e, io.BytesIO(content))
add('keep/from-below', tarfile.LNKTYPE, 'was-link-target')
add('only/more', content=b'more'); add('tmp/x/.wh.f'); add('chain2', tarfile.LNKTYPE, 'chain')
t.close()
P
# What was linked to is deleted; the links stay. And aufs's own names mean nothing.
cd l; mkdir d keep; >.wh.was-link-target; >d/.wh.deep; >.wh.chain; >.wh..wh.aufs; cd ..
layer .wh.was-link-target d .wh.chain .wh..wh.aufs
for n in $(seq 35); do mkdir -p l/many; echo $n >l/many/f$n; [ $n -lt 3 ] || >l/many/.wh.f$((n-2)); layer many; done
"#;

/// `zstd:t`, the same with its layers stored in zstd.
const ZSTD: &str = "skopeo copy -q --dest-compress-format zstd oci:layout:t oci:zstd:t";

fn layers_over_each_other(artifact: &str, into: &Path) -> usize {
    let footer = smolvm_pack::read_footer_from_sidecar(artifact).unwrap();
    let manifest = smolvm_pack::read_manifest_from_sidecar(artifact).unwrap();
    let assets = into.with_extension("assets");
    let unpacked = format!(
        "mkdir -p '{0}' '{1}'; head -c {2} '{artifact}' | zstd -dcq | tar -x -C '{0}'",
        assets.display(),
        into.display(),
        footer.assets_size
    );
    assert!(Command::new("sh").args(["-ec", &unpacked]).status().unwrap().success());
    for layer in &manifest.assets.layers {
        let tar = assets.join(&layer.path);
        let mut unpack = Command::new("tar");
        unpack.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"]).arg(tar).arg("-C").arg(into);
        assert!(unpack.status().unwrap().success(), "{}", layer.path);
    }
    manifest.assets.layers.len()
}

#[test]
fn what_layers_delete_and_replace_stays_so() {
    let thawing = Thawing::new(Kind::Busybox);
    let work = thawing.desk.host.tree("work", "");
    shell(&work, &[BEGIN, LAYERS].concat());
    shell(&work, &["umoci unpack --image layout:t bundle\n", ZSTD].concat());
    let wanted = inventory(&work.join("bundle/rootfs"), Keeps::Everything);
    // What is stored with zstd is written where it will lie before it shows whether it stays.
    for stored in ["layout", "zstd"] {
        let layout = format!("oci:{}:t", work.join(stored).display());
        let (kept, name) = (thawing.desk.host.text(&format!("{stored}.smolmachine")), format!("new-{stored}"));
        thawing.thaws(&[&layout, "--name", &name, "--no-start", "--keep-artifact", &kept]);
        thawing.desk.host.verify(&kept);
        let got = work.join(format!("got-{stored}"));
        let layers = layers_over_each_other(&kept, &got);
        assert!(layers >= 38, "{layers}");
        assert_same(&wanted, &inventory(&got, Keeps::Everything), stored);
        assert_eq!(fs::read_to_string(got.join("keep/deep")).unwrap(), "x\n");
    }
}

#[test]
fn layers_in_which_nothing_is_dead_go_in_as_they_are_and_workspaces_become_one() {
    let thawing = Thawing::new(Kind::Busybox);
    let work = thawing.desk.host.tree("work", "");
    let layers = r"
cd l; mkdir usr workspace; echo u >usr/u; echo gone >workspace/gone; echo old >workspace/changed; cd ..; layer .
cd l; mkdir etc; echo e >etc/e; cd ..; layer etc
cd l; mkdir workspace; echo new >workspace/changed; >workspace/.wh.gone; echo more >workspace/more; cd ..; layer workspace
";
    shell(&work, &[BEGIN, layers].concat());
    let (layout, kept) =
        (format!("oci:{}:t", work.join("layout").display()), thawing.desk.host.text("kept.smolmachine"));
    thawing.thaws(&[&layout, "--name", "new", "--no-start", "--keep-artifact", &kept]);
    let config = shell_output(&work, "umoci stat --image layout:t --json");
    let manifest = smolvm_pack::read_manifest_from_sidecar(&kept).unwrap();
    let named = |layer: &smolvm_pack::format::LayerEntry| config.contains(&layer.digest);
    assert_eq!(manifest.assets.layers.iter().filter(|layer| named(layer)).count(), 1, "the one of etc");
    let got = work.join("got");
    layers_over_each_other(&kept, &got);
    let seed = work.join("got.assets/layers/workspace-seed/workspace.tar");
    let listed = shell_output(&work, &format!("mkdir s; tar -xf {} -C s; cat s/changed s/more; ls s", seed.display()));
    assert_eq!(listed, "new\nmore\nchanged\nmore\n");
    assert_eq!(fs::read_dir(got.join("workspace")).unwrap().count(), 0, "smolvm mounts its own there");
    shell(&work, ZSTD);
    let (layout, kept) = (format!("oci:{}:t", work.join("zstd").display()), thawing.desk.host.text("zstd.smolmachine"));
    thawing.thaws(&[&layout, "--name", "zstd", "--no-start", "--keep-artifact", &kept]);
    let artifact = fs::read(&kept).unwrap();
    let blobs =
        fs::read_dir(work.join("zstd/blobs/sha256")).unwrap().map(|blob| fs::read(blob.unwrap().path()).unwrap());
    let layers: Vec<_> = blobs.filter(|blob| blob.starts_with(&0xFD2F_B528_u32.to_le_bytes())).collect();
    let stays = |layer: &&Vec<u8>| artifact.windows(layer.len()).any(|bytes| bytes == &layer[..]);
    assert_eq!((layers.len(), layers.iter().filter(stays).count()), (3, 1), "nothing of the other two is left");
}

/// `layout`, as buildah leaves it: an image with a deletion, and a list of it for two machines. `$b` is buildah.
const BUILT: &str = r#"
b="buildah --storage-driver vfs --root $PWD/store --runroot $PWD/run"
mkdir -p l/usr/lib; echo kept >l/usr/kept; echo gone >l/usr/lib/gone; echo first >l/changed
made=$($b from scratch); $b copy $made l / >/dev/null; $b config --user 7 --env A=b $made
$b commit --quiet --rm $made first >/dev/null
made=$($b from first); root=$($b mount $made)
rm $root/usr/lib/gone; echo second >$root/changed; ln $root/changed $root/usr/link; $b umount $made >/dev/null
$b commit --quiet --rm $made second >/dev/null
$b push --quiet second oci:layout:one; $b push --quiet first oci:layout:zero
case $(uname -m) in x86_64) here=amd64 there=arm64 ;; *) here=arm64 there=amd64 ;; esac
$b manifest create list >/dev/null; $b manifest add --arch $there list oci:$PWD/layout:zero >/dev/null
$b manifest add --arch $here list oci:$PWD/layout:one >/dev/null
$b manifest push --quiet --all list oci:layout:several
"#;

#[test]
fn a_layout_of_buildahs_is_thawed_and_added_to() {
    let thawing = Thawing::new(Kind::Busybox);
    let work = thawing.desk.host.tree("work", BUILT);
    shell(&work, "umoci unpack --image layout:one bundle");
    let layout = format!("oci:{}", work.join("layout").display());
    // No layer has the root itself.
    let tree = |root: &Path| {
        let mut tree = inventory(root, Keeps::Everything);
        tree.remove(Path::new(""));
        tree
    };
    let wanted = tree(&work.join("bundle/rootfs"));
    for tag in ["one", "several"] {
        let (from, kept) = (format!("{layout}:{tag}"), thawing.desk.host.text(&format!("{tag}.smolmachine")));
        thawing.thaws(&[&from, "--name", "new", "--no-start", "--keep-artifact", &kept]);
        thawing.desk.machine.smolvm(&["machine", "delete", "--name", "new", "--force"]);
        let got = work.join(tag);
        layers_over_each_other(&kept, &got);
        assert_same(&wanted, &tree(&got), tag);
        assert_eq!(fs::read_to_string(got.join("usr/link")).unwrap(), "second\n");
        assert!(got.join("usr/lib").exists() && !got.join("usr/lib/gone").exists());
    }
    // What was there stays, and buildah reads what came.
    thawing.desk.freeze(&["--to", &format!("{layout}:ours"), "--compression", "gzip"]);
    let script = r#"
b="buildah --storage-driver vfs --root $PWD/other --runroot $PWD/run"
for tag in one ours; do
    made=$($b from --quiet oci:layout:$tag); root=$($b mount $made); test -n "$(ls $root)"; echo $tag; $b umount $made >/dev/null
done
"#;
    assert_eq!(shell_output(&work, script), "one\nours\n");
}

#[test]
fn it_shows_how_far_it_is() {
    let thawing = Thawing::new(Kind::Busybox);
    let layout = format!("oci:{}", thawing.desk.host.text("layout"));
    thawing.desk.freeze(&["--to", &layout]);
    let words = [&layout, "--name", "new", "--no-start", "--json", "--progress", "json"];
    let output = finish(thawing.command(&words).spawn().unwrap());
    let thawed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    let events = told.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let sent = events.filter(|event| event["event"] == "sent").count();
    assert!(sent > 0 && sent == thawed["layers"], "{told}");
    thawing.assert_nothing_left();
}

fn shell_output(folder: &Path, script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
