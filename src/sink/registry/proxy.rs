//! The proxy that the environment names for a registry: found, and used, by the HTTP library, which passes over one of a
//! kind that it does not know. So would the bytes, past the proxy; here that is said instead.

use std::env;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

use crate::error::{Error, Result};
use crate::text;

/// The kinds that there are.
const SCHEMES: &[&str] = &["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// Whether the proxy for `root`, if there is one, is of a kind that can be used.
///
/// # Errors
/// With the variable that names it.
pub(super) fn check(root: &Url) -> Result<()> {
    let variables = match root.scheme() {
        "https" => ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        _ => ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    let named =
        variables.into_iter().find_map(|name| Some((name, env::var(name).ok().filter(|value| !value.is_empty())?)));
    let Some((variable, value)) = named else { return Ok(()) };
    let scheme = value.split_once("://").map_or("http", |(scheme, _)| scheme).to_ascii_lowercase();
    if SCHEMES.contains(&scheme.as_str()) || !is_meant(root) {
        return Ok(());
    }
    // Without the rest of it, which may hold a password.
    let subject = format!("{variable}={}://…", text::line(&scheme));
    let hint =
        format!("there is {}; NO_PROXY={} goes without one", SCHEMES.join(", "), root.host_str().unwrap_or_default());
    Err(Error::usage("finding the proxy", subject, "there is no such kind of proxy here").hint(hint))
}

/// Whether NO_PROXY lets a proxy have it.
fn is_meant(root: &Url) -> bool {
    let no_proxy = ["NO_PROXY", "no_proxy"].into_iter().find_map(|name| env::var(name).ok()).unwrap_or_default();
    let any = Matcher::builder().all("http://proxy.invalid").no(no_proxy).build();
    root.as_str().parse().is_ok_and(|uri| any.intercept(&uri).is_some())
}
