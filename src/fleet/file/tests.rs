//! Files that are right, and mistakes with their places.

use super::*;

/// The least that is a fleet.
const LEAST: &str = "
[destinations.main]
to = \"registry.example/{machine}:{date}\"
[[policies]]
to = [\"main\"]
";

fn mistakes(text: &str) -> Vec<String> {
    File::parse(text).map(drop).unwrap_err().iter().map(ToString::to_string).collect()
}

/// The least, with one line after `header`.
fn with(header: &str, line: &str) -> String {
    assert!(LEAST.contains(header), "{header}");
    LEAST.replacen(header, &format!("{header}\n{line}"), 1)
}

#[test]
fn the_least_has_all_defaults() {
    let file = File::parse(LEAST).unwrap();
    assert_eq!((file.name.as_str(), file.concurrency.get(), file.unselected), ("fleet", 2, Unselected::Ignore));
    let terms = file.policies[0].terms(0, &file);
    assert_eq!((terms.policy.as_str(), terms.to, terms.stopped), ("policy-1", vec!["main".to_owned()], Stopped::Skip));
    assert_eq!((terms.retries.attempts.get(), terms.freeze.uploads, terms.deadline), (3, 4, None));
    assert!(terms.retention.is_none() && terms.freeze.known && terms.freeze.record);
}

#[test]
fn the_example_is_right_and_its_policies_have_the_defaults() {
    let file = File::parse(EXAMPLE).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    let terms: Vec<_> = file.policies.iter().enumerate().map(|(at, policy)| policy.terms(at, &file)).collect();
    assert!(terms.iter().all(|terms| terms.to == ["registry", "disk"] && terms.retention.is_some()));
    assert_eq!(
        terms.iter().map(|terms| terms.stopped).collect::<Vec<_>>(),
        [Stopped::Skip, Stopped::Start, Stopped::Skip]
    );
    assert_eq!(terms[0].drill.as_ref().unwrap().command, "cat /etc/hostname");
    // What is commented out is right, too.
    let all = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
        Some(line) if line.starts_with('[') || line.contains(" = \"") => line,
        _ => line,
    });
    let file = File::parse(&all.collect::<Vec<_>>().join("\n")).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    assert!(file.notify.ping.is_some() && file.metrics.file.is_some());
}

#[test]
fn a_key_that_is_none_is_named_with_its_place_and_the_nearest() {
    for (text, said) in [
        (format!("concurency = 2\n{LEAST}"), "line 1, column 1: unknown field `concurency`"),
        (format!("concurency = 2\n{LEAST}"), "did you mean 'concurrency'?"),
        (with("[destinations.main]", "upload = 2"), "line 3, column 1: unknown field `upload`"),
        (with("[destinations.main]", "upload = 2"), "did you mean 'uploads'?"),
        (with("[[policies]]", "stopped = \"started\""), "line 5, column 11: unknown variant `started`"),
        (with("[[policies]]", "stopped = \"started\""), "did you mean 'start'?"),
        (with("[[policies]]", "retention = { keep_dayly = 3 }"), "did you mean 'keep_daily'?"),
        (with("[[policies]]", "deadline = \"1 fortnight\""), "line 5, column 12: '1 fortnight' is no duration"),
        (with("[[policies]]", "deadline = 60"), "a duration such as \"30s\""),
        (with("[destinations.main]", "bandwidth = \"20 Mb/s\""), "line 3, column 13: '20 Mb/s' is no size"),
        (format!("concurrency = 0\n{LEAST}"), "line 1, column 15"),
        ("name = \"a\nx = 1".to_owned(), "line 1, column"),
    ] {
        let said_so = mistakes(&text).join("; ");
        assert!(said_so.contains(said), "{said_so}\n(not '{said}')");
    }
}

#[test]
fn what_makes_no_sense_is_found_with_its_place() {
    for (text, said) in [
        (
            LEAST.replace("[\"main\"]", "[\"mian\"]"),
            "line 5, column 7: there is no destination 'mian'; did you mean 'main'?",
        ),
        (LEAST.replace("[\"main\"]", "[\"main\", \"main\"]"), "line 5, column 15: 'main' stands there twice"),
        (LEAST.replace("to = [\"main\"]", "machines = [\"a\"]"), "line 4, column 1: it has no destination"),
        (LEAST.replace("{machine}", "all"), "line 3, column 6: without {machine}"),
        (LEAST.replace("{date}", "{day}"), "line 3, column 6: there is no placeholder '{day}'"),
        (LEAST.replace("/{machine}:", "/UPPER/{machine}:"), "line 3, column 6"),
        (with("[destinations.main]", "pack = \"/srv/{machine}\""), "line 2, column 15: a destination has either"),
        (with("[destinations.main]", "bandwidth = \"1KiB\""), "below 64KiB a second"),
        (with("[destinations.main]", "uploads = 65"), "line 3, column 11: it is 1 to 64"),
        (
            LEAST.replace("registry.example", "oci:/srv")
                + "[destinations.disk]\nto = \"oci:/x/{machine}\"\nuploads = 2",
            "line 8, column 11: 'uploads' is for registries",
        ),
        (with("[[policies]]", "machines = [\"ok\", \"[a\"]"), "line 5, column 19: '[a' is no pattern"),
        (with("[[policies]]", "retention = {}"), "line 5, column 1: it keeps nothing"),
        (with("[[policies]]", "retention = { keep_last = 0 }"), "it keeps nothing"),
        (with("[[policies]]", "freeze = { compression = \"gzip\", level = 19 }"), "gzip has levels 1 to 12"),
        (with("[[policies]]", "drill = { from = \"disk\" }"), "has no destination 'disk'"),
        (with("[[policies]]", "drill = { memory = \"1000\" }"), "line 5, column 20: it has to be whole MiB"),
        (with("[[policies]]", "drill = { cpus = 0 }"), "line 5, column 18"),
        (format!("{LEAST}[[policies]]\nto = [\"main\"]"), "line 4, column 1: it fits every machine, so those behind"),
        (format!("memory = \"100MiB\"\n{LEAST}"), "line 1, column 10: 2 freezes at a time need at least 256MiB"),
        (format!("{LEAST}[notify]\nping = \"ping.example/x\""), "is no URL"),
        (format!("{LEAST}[notify]\nwebhook = \"ftp://x\""), "is no URL of http or https"),
        ("name = \"../x\"".to_owned(), "line 1, column 8: a fleet's name"),
        (String::new(), "there is no policy"),
    ] {
        let said_so = mistakes(&text).join("; ");
        assert!(said_so.contains(said), "{said_so}\n(not '{said}')");
    }
}

#[test]
fn all_mistakes_are_told_in_the_files_order() {
    let text = "name = \"-\"\n[destinations.a]\nto = \"x\"\n[[policies]]\nto = [\"b\"]\n";
    let lines: Vec<_> = File::parse(text).unwrap_err().iter().map(|mistake| mistake.line).collect();
    assert!(lines.len() >= 3 && lines.is_sorted(), "{lines:?}");
}

#[test]
fn the_schema_describes_every_key() {
    let schema = File::schema();
    let undescribed = |at: &str, properties: &serde_json::Map<String, serde_json::Value>| {
        let bare = properties.iter().filter(|(_, property)| property["description"].as_str().is_none_or(str::is_empty));
        bare.map(|(key, _)| format!("{at}.{key}")).collect::<Vec<_>>()
    };
    let mut bare = undescribed("", schema["properties"].as_object().unwrap());
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        if let Some(properties) = definition["properties"].as_object() {
            assert_eq!(definition["additionalProperties"], false, "{name}");
            bare.extend(undescribed(name, properties));
        }
    }
    assert!(bare.is_empty(), "{bare:?}");
}
