//! The points of the distribution specification 1.1 as rows: a request, and what has to be answered. A row may use what
//! earlier ones did: `{location}` is the last `Location`, the other words in braces are things of the run.

use crate::table::Who::{Both, Ours};

/// Whom a row is true of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Both registries.
    Both,
    /// Ours; docker-registry 2.8 does something else that is allowed, or is older than the point.
    Ours,
}

/// One point.
pub struct Row {
    pub point: &'static str,
    pub who: Who,
    /// Method and target.
    pub request: &'static str,
    /// `Name: value`, one a line.
    pub headers: &'static str,
    /// The name of a body.
    pub body: &'static str,
    pub status: u16,
    /// `name: value` or `name: *`, one a line.
    pub has: &'static str,
    /// What the body has in it.
    pub says: &'static str,
}

const fn row(point: &'static str, who: Who, request: &'static str, status: u16) -> Row {
    Row { point, who, request, headers: "", body: "", status, has: "", says: "" }
}

impl Row {
    const fn with(mut self, headers: &'static str, body: &'static str) -> Self {
        (self.headers, self.body) = (headers, body);
        self
    }

    const fn has(mut self, has: &'static str) -> Self {
        self.has = has;
        self
    }

    const fn says(mut self, says: &'static str) -> Self {
        self.says = says;
        self
    }
}

const MANIFEST: &str = "Content-Type: application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "Content-Type: application/vnd.oci.image.index.v1+json";
const OCTETS: &str = "Content-Type: application/octet-stream";

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row("end-1: the API is there", Both, "GET /v2/", 200).has("docker-distribution-api-version: registry/2.0"),
    row("end-1: without the slash", Ours, "GET /v2", 200),

    row("end-2: no such blob", Both, "GET /v2/{name}/blobs/{absent}", 404).says("BLOB_UNKNOWN"),
    row("end-2: no such blob, HEAD", Both, "HEAD /v2/{name}/blobs/{absent}", 404),
    row("end-2: no digest", Ours, "GET /v2/{name}/blobs/sha256:12", 400).says("DIGEST_INVALID"),
    row("end-3: no such repository", Both, "GET /v2/{name}/manifests/v1", 404).says("MANIFEST_UNKNOWN"),
    row("end-8: no such repository", Both, "GET /v2/{name}/tags/list", 404).says("NAME_UNKNOWN"),

    row("end-4a: a session", Both, "POST /v2/{name}/blobs/uploads/", 202).has("location: *\nrange: 0-0\ndocker-upload-uuid: *"),
    row("end-5: the first part", Both, "PATCH {location}", 202)
        .with("Content-Type: application/octet-stream\nContent-Range: 0-3999", "blob[0..4000]").has("location: *\nrange: 0-3999"),
    row("end-13: how far it got", Both, "GET {location}", 204).has("location: *\nrange: 0-3999"),
    row("end-5: a part that comes too early", Ours, "PATCH {location}", 416)
        .with("Content-Type: application/octet-stream\nContent-Range: 5000-9999", "blob[5000..10000]"),
    row("end-5: a part that was there", Ours, "PATCH {location}", 416)
        .with("Content-Type: application/octet-stream\nContent-Range: 0-3999", "blob[0..4000]"),
    row("end-13: a refused part changes nothing", Both, "GET {location}", 204).has("location: *\nrange: 0-3999"),
    row("end-5: not a range", Ours, "PATCH {location}", 400).with("Content-Range: all", "blob[4000..10000]").says("BLOB_UPLOAD_INVALID"),
    row("end-5: a range of another length", Ours, "PATCH {location}", 400)
        .with("Content-Range: 4000-4001", "blob[4000..10000]").says("SIZE_INVALID"),
    row("end-5: a part without a range", Both, "PATCH {location}", 202).with(OCTETS, "blob[4000..9000]").has("location: *\nrange: 0-8999"),
    row("end-6: the last part, and the digest", Both, "PUT {location}?digest={blob}", 201)
        .with("Content-Type: application/octet-stream\nContent-Range: 9000-9999", "blob[9000..10000]")
        .has("location: *\ndocker-content-digest: {blob}"),
    row("end-2: the location is the blob's", Both, "GET {location}", 200).has("docker-content-digest: {blob}\ncontent-length: 10000").says("{blob's bytes}"),
    row("end-2: HEAD", Both, "HEAD /v2/{name}/blobs/{blob}", 200)
        .has("docker-content-digest: {blob}\ncontent-length: 10000\naccept-ranges: bytes"),
    row("end-2: a range", Both, "GET /v2/{name}/blobs/{blob}", 206).with("Range: bytes=10-19", "")
        .has("content-range: bytes 10-19/10000\ncontent-length: 10"),
    row("end-2: the rest", Both, "GET /v2/{name}/blobs/{blob}", 206).with("Range: bytes=9990-", "").has("content-range: bytes 9990-9999/10000"),
    row("end-2: the end", Both, "GET /v2/{name}/blobs/{blob}", 206).with("Range: bytes=-5", "").has("content-range: bytes 9995-9999/10000"),
    row("end-2: a range that is not there", Both, "GET /v2/{name}/blobs/{blob}", 416).with("Range: bytes=10000-", "")
        .has("content-range: bytes */10000"),
    row("end-2: more than there is", Both, "GET /v2/{name}/blobs/{blob}", 206).with("Range: bytes=9000-20000", "").has("content-length: 1000"),

    row("end-4a: another session", Both, "POST /v2/{name}/blobs/uploads/", 202).has("location: *"),
    row("end-6: the whole blob in the last request", Both, "PUT {location}?digest={config}", 201).with(OCTETS, "config")
        .has("docker-content-digest: {config}"),
    row("end-4a: a session for another digest", Both, "POST /v2/{name}/blobs/uploads/", 202).has("location: *"),
    row("end-6: bytes that have another digest", Both, "PUT {location}?digest={absent}", 400).with(OCTETS, "config").says("DIGEST_INVALID"),
    row("end-2: are not kept", Both, "HEAD /v2/{name}/blobs/{absent}", 404),
    row("end-4a: a session to cancel", Both, "POST /v2/{name}/blobs/uploads/", 202).has("location: *"),
    row("DELETE of a session", Both, "DELETE {location}", 204),
    row("end-13: a session that is gone", Both, "GET {location}", 404).says("BLOB_UPLOAD_UNKNOWN"),
    row("end-5: a session that is gone", Both, "PATCH {location}", 404).with(OCTETS, "config").says("BLOB_UPLOAD_UNKNOWN"),
    row("end-4b: all in one request", Ours, "POST /v2/{name}/blobs/uploads/?digest={layer}", 201).with(OCTETS, "layer")
        .has("location: *\ndocker-content-digest: {layer}"),
    row("end-4b: wrong bytes", Ours, "POST /v2/{name}/blobs/uploads/?digest={absent}", 400).with(OCTETS, "layer").says("DIGEST_INVALID"),
    row("end-4b: an algorithm that is not kept", Ours, "POST /v2/{name}/blobs/uploads/?digest=sha512:00", 400)
        .with(OCTETS, "layer").says("only sha256"),
    row("end-4a, for those who need two", Both, "POST /v2/{name}/blobs/uploads/", 202).has("location: *"),
    row("end-6, for those who need two", Both, "PUT {location}?digest={layer}", 201).with(OCTETS, "layer"),

    row("end-11: a mount", Both, "POST /v2/{other}/blobs/uploads/?mount={blob}&from={name}", 201)
        .has("location: /v2/{other}/blobs/{blob}\ndocker-content-digest: {blob}"),
    row("end-2: what was mounted", Both, "HEAD /v2/{other}/blobs/{blob}", 200),
    row("end-11: a mount without a source", Ours, "POST /v2/{other}/blobs/uploads/?mount={layer}", 201),
    row("end-11: a mount of what is not there", Both, "POST /v2/{other}/blobs/uploads/?mount={absent}&from={name}", 202).has("location: *"),

    row("end-7: a manifest whose layer is missing", Both, "PUT /v2/{name}/manifests/v1", 400).with(MANIFEST, "hollow").says("MANIFEST_BLOB_UNKNOWN"),
    row("end-7: not a manifest", Ours, "PUT /v2/{name}/manifests/v1", 400).with(MANIFEST, "config").says("MANIFEST_INVALID"),
    row("end-7: under a tag", Both, "PUT /v2/{name}/manifests/v1", 201).with(MANIFEST, "manifest").has("location: *\ndocker-content-digest: {manifest}"),
    row("end-7: again", Both, "PUT /v2/{name}/manifests/v1", 201).with(MANIFEST, "manifest"),
    row("end-7: under a second tag", Both, "PUT /v2/{name}/manifests/v2", 201).with(MANIFEST, "manifest"),
    row("end-7: under its digest", Both, "PUT /v2/{name}/manifests/{manifest}", 201).with(MANIFEST, "manifest"),
    row("end-7: under another's digest", Both, "PUT /v2/{name}/manifests/{absent}", 400).with(MANIFEST, "manifest").says("DIGEST_INVALID"),
    row("end-7: too large", Ours, "PUT /v2/{name}/manifests/v1", 413).with(MANIFEST, "five megabytes").says("SIZE_INVALID"),
    row("end-7: another media type than its own", Ours, "PUT /v2/{name}/manifests/v1", 400).with(INDEX, "manifest").says("MANIFEST_INVALID"),
    row("end-3: by tag", Both, "GET /v2/{name}/manifests/v1", 200)
        .with("Accept: application/vnd.oci.image.manifest.v1+json", "")
        .has("docker-content-digest: {manifest}\ncontent-type: application/vnd.oci.image.manifest.v1+json").says("{manifest's bytes}"),
    row("end-3: by digest", Both, "GET /v2/{name}/manifests/{manifest}", 200)
        .with("Accept: application/vnd.oci.image.manifest.v1+json", "").says("{manifest's bytes}"),
    row("end-3: HEAD", Both, "HEAD /v2/{name}/manifests/v1", 200)
        .with("Accept: application/vnd.oci.image.manifest.v1+json", "").has("docker-content-digest: {manifest}\ncontent-length: *"),
    row("end-3: HEAD of none", Both, "HEAD /v2/{name}/manifests/v3", 404),
    row("end-3: another repository has other tags", Both, "GET /v2/{other}/manifests/v1", 404).says("MANIFEST_UNKNOWN"),
    row("end-3: and other manifests", Both, "GET /v2/{other}/manifests/{manifest}", 404).says("MANIFEST_UNKNOWN"),
    row("an index", Both, "PUT /v2/{name}/manifests/index", 201).with(INDEX, "index").has("docker-content-digest: {index}"),
    row("an index of what is not there", Both, "PUT /v2/{name}/manifests/index", 400).with(INDEX, "hollow index"),

    row("end-8a: tags", Both, "GET /v2/{name}/tags/list", 200).says(r#""name":"team/app","tags":["#),
    row("end-8a: sorted", Ours, "GET /v2/{name}/tags/list", 200).says(r#""tags":["index","v1","v2"]"#),
    row("end-8b: the first", Ours, "GET /v2/{name}/tags/list?n=1", 200)
        .has("link: </v2/{name}/tags/list?n=1&last=index>; rel=\"next\"").says(r#""tags":["index"]"#),
    row("end-8b: the rest", Ours, "GET /v2/{name}/tags/list?n=2&last=index", 200).says(r#""tags":["v1","v2"]"#),
    row("end-8b: none", Ours, "GET /v2/{name}/tags/list?n=0", 200).says(r#""tags":[]"#),
    row("end-8b: not a number", Ours, "GET /v2/{name}/tags/list?n=x", 400),
    row("repositories", Both, "GET /v2/_catalog", 200).says("{name}"),

    row("end-12a: nobody refers", Ours, "GET /v2/{name}/referrers/{manifest}", 200)
        .has("content-type: application/vnd.oci.image.index.v1+json").says(r#""manifests":[]"#),
    row("end-7: one that refers", Ours, "PUT /v2/{name}/manifests/{signature}", 201).with(MANIFEST, "signature").has("oci-subject: {manifest}"),
    row("end-12a: it is listed", Ours, "GET /v2/{name}/referrers/{manifest}", 200).says(r#""artifactType":"application/vnd.example.signature""#),
    row("end-12a: with its annotations", Ours, "GET /v2/{name}/referrers/{manifest}", 200).says(r#""annotations":{"who":"a test"}"#),
    row("end-12b: by type", Ours, "GET /v2/{name}/referrers/{manifest}?artifactType=application/vnd.example.signature", 200)
        .has("oci-filters-applied: artifactType").says("{signature}"),
    row("end-12b: by another type", Ours, "GET /v2/{name}/referrers/{manifest}?artifactType=a/b", 200)
        .has("oci-filters-applied: artifactType").says(r#""manifests":[]"#),
    row("end-12a: of a subject that is not there", Ours, "GET /v2/{name}/referrers/{absent}", 200).says(r#""manifests":[]"#),
    row("end-12a: not a digest", Ours, "GET /v2/{name}/referrers/v1", 400),

    row("end-9: a tag", Ours, "DELETE /v2/{name}/manifests/v2", 202),
    row("end-3: is gone", Ours, "GET /v2/{name}/manifests/v2", 404),
    row("end-3: its manifest is not", Both, "HEAD /v2/{name}/manifests/{manifest}", 200)
        .with("Accept: application/vnd.oci.image.manifest.v1+json", ""),
    row("end-10: a blob that is needed", Ours, "DELETE /v2/{name}/blobs/{blob}", 409).says("DENIED"),
    row("end-9: the index", Both, "DELETE /v2/{name}/manifests/{index}", 202),
    row("end-9: what refers", Ours, "DELETE /v2/{name}/manifests/{signature}", 202),
    row("end-9: a manifest", Both, "DELETE /v2/{name}/manifests/{manifest}", 202),
    row("end-3: by digest, it is gone", Both, "GET /v2/{name}/manifests/{manifest}", 404).says("MANIFEST_UNKNOWN"),
    row("end-3: and its tags", Both, "GET /v2/{name}/manifests/v1", 404).says("MANIFEST_UNKNOWN"),
    row("end-9: a second time", Ours, "DELETE /v2/{name}/manifests/{manifest}", 404).says("MANIFEST_UNKNOWN"),
    row("end-10: a blob", Both, "DELETE /v2/{name}/blobs/{blob}", 202),
    row("end-2: it is gone", Both, "GET /v2/{name}/blobs/{blob}", 404).says("BLOB_UNKNOWN"),
    row("end-10: a second time", Both, "DELETE /v2/{name}/blobs/{blob}", 404).says("BLOB_UNKNOWN"),

    row("a method that nothing has", Ours, "POST /v2/{name}/manifests/v1", 405).says("UNSUPPORTED").has("allow: *"),
    row("a path that nothing has", Ours, "GET /v2/{name}/nothing/v1", 404).says("errors"),
];
