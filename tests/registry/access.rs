//! Who may write to a registry, and whom we believe to be it: credentials, tokens, TLS, references, other hosts.

use std::sync::Arc;
use std::time::Duration;

use crate::support::docker_registry::{DockerRegistry, Setup};
use crate::support::layers::{context, image, layer};
use crate::support::proxy::{Fault, Habits, Location, Proxy, Rule, nth};
use base64::Engine;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use smolfreeze::error::{Error, Kind};
use smolfreeze::sink::Put;
use smolfreeze::sink::registry::{Patience, RegistryOptions, RegistryReader, RegistrySink};

/// User `alice`, password `correct horse`, bcrypt.
const HTPASSWD: &str = "alice:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n";

fn options() -> RegistryOptions {
    let patience = Patience { first_delay: Duration::from_millis(5), random: Arc::new(|| 0.5), ..Patience::default() };
    RegistryOptions { part_bytes: 1 << 20, auth_files: Some(Vec::new()), patience, ..RegistryOptions::default() }
}

async fn refused(name: &str, options: RegistryOptions) -> Error {
    RegistrySink::connect(name, options, context().0).await.map(drop).expect_err("a refusal")
}

#[tokio::test]
async fn a_typo_is_named() {
    for name in ["", "UPPER/case:tag", "localhost:5000/a:b:c", "registry.example/a@sha256:12", "a b"] {
        let error = refused(name, options()).await;
        assert_eq!(error.kind(), Kind::Usage, "{name}: {error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let digest = format!("localhost:5000/a@sha256:{}", "0".repeat(64));
    assert_eq!(refused(&digest, options()).await.kind(), Kind::Usage);
}

#[tokio::test]
async fn an_unreachable_registry_is_named() {
    // Bound and dropped: nobody listens.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = refused(&format!("{address}/name:tag"), options()).await;
    assert_eq!(error.kind(), Kind::Sink);
    assert!(error.to_string().contains(&address.to_string()) && error.to_string().contains("tried 4 times"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn basic_credentials_are_right_or_refused() {
    let registry = DockerRegistry::start_with(&Setup { htpasswd: Some(HTPASSWD.to_owned()), ..Setup::default() });
    let name = format!("{}/space/name:tag", registry.address);
    let folder = tempfile::tempdir().unwrap();
    for (user, is_right) in [("alice:correct horse", true), ("alice:wrong", false)] {
        let file = folder.path().join("auth.json");
        let encoded = base64::engine::general_purpose::STANDARD.encode(user);
        std::fs::write(&file, format!(r#"{{"auths":{{"{}/space":{{"auth":"{encoded}"}}}}}}"#, registry.address))
            .unwrap();
        let options = RegistryOptions { auth_files: Some(vec![file.clone()]), ..options() };
        if is_right {
            let sink = RegistrySink::connect(&name, options, context().0).await.unwrap();
            assert!(matches!(sink.put(&layer(0, 1, 3 << 20)).await.unwrap(), Put::Sent { .. }));
        } else {
            let error = refused(&name, options).await;
            assert_eq!(error.kind(), Kind::Unauthorized);
            let words = error.to_string();
            assert!(words.contains(&registry.address.to_string()) && words.contains("auth.json"), "{words}");
            assert!(!words.contains("wrong") && !words.contains(&encoded), "{words}");
        }
    }
    let error = refused(&name, options()).await;
    assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_expires_in_mid_blob_is_renewed() {
    let registry = DockerRegistry::start();
    let habits = Habits { first_token_requests: Some(3), ..Habits::default() };
    let proxy = Proxy::start(registry.address, habits, vec![]).await;
    let (context, told) = context();
    let sink = RegistrySink::connect(&format!("{}/space/name:tag", proxy.address), options(), context).await.unwrap();
    let layer = layer(0, 1, 6 << 20);
    sink.put(&layer).await.unwrap();
    assert_eq!(told.bytes.load(std::sync::atomic::Ordering::Relaxed), 6 << 20);
    assert!(proxy.tokens() >= 2, "{} tokens", proxy.tokens());
    assert!(sink.has(&layer.descriptor).await.unwrap());
    // The same body once more, without asking the session.
    let seen = proxy.seen();
    let bodies: Vec<_> = seen.iter().filter(|seen| seen.method == "PUT").map(|seen| &seen.target).collect();
    assert!(bodies.len() == 2 && bodies[0] == bodies[1], "{bodies:?}");
    assert!(seen.iter().all(|seen| seen.method != "GET" || !seen.target.contains("/uploads/")));
    let asked = proxy.seen().into_iter().find(|seen| seen.target.starts_with("/token")).unwrap();
    assert!(asked.target.contains("scope=repository%3Aspace%2Fname%3Apull%2Cpush"), "{}", asked.target);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_bought_with_what_the_user_has() {
    let registry = DockerRegistry::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth.json");
    for (entry, method, header) in [
        (r#""auth":"YWxpY2U6aG9yc2U=""#, "GET", Some("Basic YWxpY2U6aG9yc2U=")),
        (r#""identitytoken":"abc""#, "POST", None),
    ] {
        let habits = Habits { first_token_requests: Some(1000), ..Habits::default() };
        let proxy = Proxy::start(registry.address, habits, vec![]).await;
        std::fs::write(&file, format!(r#"{{"auths":{{"{}":{{{entry}}}}}}}"#, proxy.address)).unwrap();
        let options = RegistryOptions { auth_files: Some(vec![file.clone()]), ..options() };
        RegistrySink::connect(&format!("{}/space/name:tag", proxy.address), options, context().0).await.unwrap();
        let seen = proxy.seen();
        let asked = seen.iter().find(|seen| seen.target.starts_with("/token")).unwrap();
        assert_eq!((asked.method.as_str(), asked.header("authorization")), (method, header));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_refused_requests_fetch_one_token() {
    let registry = DockerRegistry::start();
    let habits = Habits { first_token_requests: Some(1), ..Habits::default() };
    let proxy = Proxy::start(registry.address, habits, vec![]).await;
    let sink =
        RegistrySink::connect(&format!("{}/space/name:tag", proxy.address), options(), context().0).await.unwrap();
    let puts = (0..6).map(|seed| {
        let sink = sink.clone();
        tokio::spawn(async move { sink.put(&layer(0, seed, 100)).await.unwrap() })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap();
    }
    assert_eq!(proxy.tokens(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forbidden_push_is_not_tried_again() {
    let registry = DockerRegistry::start();
    let body = r#"{"errors":[{"code":"DENIED","message":"no push for you"}]}"#;
    let rule = Rule { method: "POST", skip: 0, times: 9, fault: Fault::Answer(403, "", body) };
    let proxy = Proxy::start(registry.address, Habits::default(), vec![rule]).await;
    let (context, told) = context();
    let sink = RegistrySink::connect(&format!("{}/space/name:tag", proxy.address), options(), context).await.unwrap();
    let error = sink.put(&layer(0, 1, 100)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(error.to_string().contains("DENIED no push for you"), "{error}");
    assert!(told.retries.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_do_not_follow_to_another_host() {
    let registry = DockerRegistry::start();
    let elsewhere = Proxy::start(registry.address, Habits::default(), vec![]).await;
    let habits = Habits {
        first_token_requests: Some(1000),
        location: Location::Elsewhere(elsewhere.address),
        ..Habits::default()
    };
    let proxy = Proxy::start(registry.address, habits, vec![]).await;
    let sink =
        RegistrySink::connect(&format!("{}/space/name:tag", proxy.address), options(), context().0).await.unwrap();
    sink.put(&layer(0, 1, 3 << 20)).await.unwrap();
    let (here, there) = (proxy.seen(), elsewhere.seen());
    assert!(here.iter().any(|seen| seen.method == "POST" && seen.header("authorization").is_some()));
    assert!(there.iter().any(|seen| seen.method == "PUT"));
    assert!(there.iter().all(|seen| seen.header("authorization").is_none()), "{there:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_passed_on_with_their_bodies_and_without_credentials() {
    let registry = DockerRegistry::start();
    let elsewhere = Proxy::start(registry.address, Habits::default(), vec![]).await;
    // A test's rules live as long as the test.
    let to = |path: &str| -> Fault {
        let target = format!("Location: http://{}/v2/space/name/{path}\r\n", elsewhere.address);
        Fault::Answer(307, target.leak(), "")
    };
    // The second PUT is that of the manifest.
    let rules = vec![nth("POST", 1, to("blobs/uploads/")), nth("PUT", 2, to("manifests/tag"))];
    let habits = Habits { first_token_requests: Some(1000), ..Habits::default() };
    let proxy = Proxy::start(registry.address, habits, rules).await;
    let sink =
        RegistrySink::connect(&format!("{}/space/name:tag", proxy.address), options(), context().0).await.unwrap();
    let layer = layer(0, 1, 3 << 20);
    sink.put(&layer).await.unwrap();
    sink.commit(&image(std::slice::from_ref(&layer))).await.unwrap();
    let there: Vec<_> = elsewhere.seen().into_iter().map(|seen| seen.method).collect();
    assert_eq!(there, ["POST", "PUT", "PUT"]);
    assert!(elsewhere.seen().iter().all(|seen| seen.header("authorization").is_none()));
    let name = format!("{}/space/name:tag", registry.address);
    RegistryReader::connect(&name, options(), context().0).await.unwrap().manifest().await.expect("the image");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_of_ones_own_is_trusted_only_when_named() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let registry =
        DockerRegistry::start_with(&Setup { tls: Some((certificate.pem(), key.serialize_pem())), ..Setup::default() });
    let name = format!("{}/space/name:tag", registry.address);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    let trusting = RegistryOptions { ca_cert: Some(path.clone()), ..options() };
    let sink = RegistrySink::connect(&name, trusting, context().0).await.unwrap();
    sink.put(&layer(0, 1, 3 << 20)).await.unwrap();

    // Loopback without an authority is asked without TLS first, and then found to have it.
    let error = refused(&name, options()).await;
    assert!(error.to_string().contains("certificate") && error.to_string().contains("--ca-cert"), "{error}");
    let plain = RegistryOptions { plain_http: true, ..options() };
    assert!(refused(&name, plain).await.to_string().contains("HTTPS server"));

    // Another authority: the certificate is not trusted, and that is final.
    let other = CertifiedIssuer::self_signed(CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
    std::fs::write(&path, other.unwrap().pem()).unwrap();
    let error = refused(&name, RegistryOptions { ca_cert: Some(path.clone()), ..options() }).await;
    assert_eq!(error.kind(), Kind::Sink);
    assert!(error.to_string().contains("certificate") && error.to_string().contains("--ca-cert"), "{error}");
    assert!(!error.to_string().contains("tried"), "{error}");

    for (text, words) in [(Some("no certificate"), "PEM"), (None, "ca.pem")] {
        match text {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let error = refused(&name, RegistryOptions { ca_cert: Some(path.clone()), ..options() }).await;
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// A certificate for 127.0.0.1 that is signed by itself and an authority by its form, as `openssl req -x509` makes it.
fn self_signed() -> (String, KeyPair) {
    let key = KeyPair::generate().expect("a key");
    let names = ["127.0.0.1", "localhost"].map(str::to_owned);
    let mut params = CertificateParams::new(names).expect("two names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.self_signed(&key).expect("a certificate").pem(), key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_own_certificate_is_trusted_when_given() {
    let ((certificate, key), (other, _)) = (self_signed(), self_signed());
    let tls = Some((certificate.clone(), key.serialize_pem()));
    let registry = DockerRegistry::start_with(&Setup { tls, ..Setup::default() });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.pem");
    for (given, is_trusted) in [(&certificate, true), (&format!("{other}{certificate}"), true), (&other, false)] {
        std::fs::write(&path, given).unwrap();
        for host in ["127.0.0.1", "localhost"] {
            let name = format!("{host}:{}/space/name:tag", registry.address.port());
            let options = RegistryOptions { ca_cert: Some(path.clone()), ..options() };
            match RegistrySink::connect(&name, options, context().0).await {
                Ok(sink) => assert!(is_trusted && sink.put(&layer(0, 1, 1000)).await.is_ok()),
                Err(error) => assert!(!is_trusted && error.to_string().contains("certificate"), "{error}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_folders_of_docker_and_podman_are_read() {
    let ((server, server_key), (client, client_key)) = (self_signed(), self_signed());
    let tls = Some((server.clone(), server_key.serialize_pem()));
    let registry = DockerRegistry::start_with(&Setup { tls, clients: Some(client.clone()), ..Setup::default() });
    let folders = tempfile::tempdir().unwrap();
    let options = || RegistryOptions { certificate_folders: Some(vec![folders.path().to_owned()]), ..options() };
    let folder = folders.path().join(registry.address.to_string());
    let name = format!("{}/space/name:tag", registry.address);
    let put = |file: &str, text: &str| {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(file), text).unwrap();
    };
    assert!(refused(&name, options()).await.to_string().contains("certificate"));
    // It wants to know who we are.
    put("ca.crt", &server);
    assert_eq!(refused(&name, options()).await.kind(), Kind::Sink);
    put("client.cert", &client);
    let error = refused(&name, options()).await;
    assert!(error.kind() == Kind::Usage && error.to_string().contains("client.key"), "{error}");
    put("client.key", &client_key.serialize_pem());
    let sink = RegistrySink::connect(&name, options(), context().0).await.unwrap();
    sink.put(&layer(0, 1, 1000)).await.unwrap();
    put("client.key", &server_key.serialize_pem());
    let error = refused(&name, options()).await;
    assert!(error.kind() == Kind::Usage && error.to_string().contains("client.cert"), "{error}");
    put("broken.crt", "nothing");
    let error = refused(&name, options()).await;
    assert!(error.kind() == Kind::Usage && error.to_string().contains("broken.crt"), "{error}");
}
