//! Requests to those who are told.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode};
use serde::Serialize;
use url::Url;

use super::ping_url;
use crate::sink::registry;

/// Pauses between tries; all together are within the limit.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// Asks `url`, or `url/suffix`, with `body` for its log.
pub(super) async fn ping(url: &str, suffix: Option<&str>, body: String, limit: Duration) -> Result<(), String> {
    let url = ping_url(url, suffix)?;
    send(&url, "text/plain; charset=utf-8", body, limit).await.map_err(|reason| failed("pinging", &url, &reason))
}

/// Sends `told` to a webhook.
pub(super) async fn post(url: &str, told: &impl Serialize, limit: Duration) -> Result<(), String> {
    let url = ping_url(url, None)?;
    let body = serde_json::to_string(told).map_err(|error| failed("telling", &url, &error.to_string()))?;
    send(&url, "application/json", body, limit).await.map_err(|reason| failed("telling", &url, &reason))
}

/// Names the host alone: the rest of such a URL is a secret, and this ends up in logs and reports.
fn failed(doing: &str, url: &Url, reason: &str) -> String {
    format!("{doing} {} failed: {reason}", url.host_str().unwrap_or("a URL without a host"))
}

async fn send(url: &Url, kind: &str, body: String, limit: Duration) -> Result<(), String> {
    let client = client(url)?;
    let mut said = "no answer".to_owned();
    let tries = async {
        let mut pauses = PAUSES.iter();
        loop {
            let asked = client.post(url.clone()).header(CONTENT_TYPE, kind).body(body.clone()).send().await;
            let worth_another = match asked.map(|answer| answer.status()) {
                Ok(status) if status.is_success() => return true,
                Ok(status) => {
                    said = format!("the answer was {status}");
                    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
                }
                Err(error) => {
                    said = registry::cause_of(&error.without_url());
                    true
                }
            };
            match pauses.next().filter(|_| worth_another) {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return false,
            }
        }
    };
    match tokio::time::timeout(limit, tries).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(said),
        Err(_) => Err(format!("{said} within {}", humantime::format_duration(limit))),
    }
}

fn client(url: &Url) -> Result<Client, String> {
    let is_loopback = url.host_str().is_some_and(registry::is_loopback);
    let tls = registry::system_tls(url.scheme() == "https").map_err(|error| error.to_string())?;
    let builder = Client::builder()
        .user_agent(concat!("smolfreeze/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .referer(false)
        .tls_backend_preconfigured(tls);
    let builder = if is_loopback { builder.no_proxy() } else { builder };
    builder.build().map_err(|error| registry::cause_of(&error))
}
