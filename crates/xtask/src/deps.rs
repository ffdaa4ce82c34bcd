//! What we depend on is what `deny.toml` allows: licences, crates, and one registry.

use std::collections::BTreeSet;

use serde_json::Value;

/// What is wrong in the answer of `cargo metadata`, by the rules in the text of `deny.toml`.
pub(crate) fn check(metadata: &Value, rules: &str) -> Result<Vec<String>, String> {
    let rules = Rules::read(rules)?;
    let packages = metadata["packages"].as_array().ok_or("the answer of cargo metadata has no packages")?;
    let mut findings = Vec::new();
    let mut registries = BTreeSet::new();
    for package in packages {
        let (Some(name), Some(version)) = (package["name"].as_str(), package["version"].as_str()) else {
            return Err("the answer of cargo metadata has a package without a name".to_owned());
        };
        if let Some((_, reason)) = rules.banned.iter().find(|(banned, _)| banned == name) {
            findings.push(format!("{name} {version} is banned: {reason}"));
        }
        match package["license"].as_str() {
            None => findings.push(format!("{name} {version} names no licence")),
            Some(license) if !allows(license, &rules.licenses) => {
                findings
                    .push(format!("{name} {version} comes under {license}, which deny.toml does not allow"));
            }
            Some(_) => {}
        }
        match package["source"].as_str() {
            None => {}
            Some(registry) if registry.starts_with("registry+") => {
                registries.insert(registry);
            }
            Some(other) => findings.push(format!("{name} {version} comes from {other}, not from a registry")),
        }
    }
    if registries.len() > 1 {
        findings.push(format!("crates come from {} registries; one is enough", registries.len()));
    }
    Ok(findings)
}

struct Rules {
    licenses: Vec<String>,
    /// Crates and why not.
    banned: Vec<(String, String)>,
}

impl Rules {
    fn read(text: &str) -> Result<Self, String> {
        let rules: toml::Table = text.parse().map_err(|error| format!("deny.toml: {error}"))?;
        let list = |table: &str, key: &str| {
            let list = rules.get(table).and_then(|table| table.get(key)).and_then(toml::Value::as_array);
            list.ok_or_else(|| format!("deny.toml has no list `{key}` in [{table}]"))
        };
        let words = |value: &toml::Value| value.as_str().map(str::to_owned);
        let licenses = list("licenses", "allow")?.iter().filter_map(words).collect();
        let ban = |value: &toml::Value| Some((words(value.get("crate")?)?, words(value.get("reason")?)?));
        let banned = list("bans", "deny")?.iter().map(ban).collect::<Option<_>>();
        Ok(Self { licenses, banned: banned.ok_or("deny.toml: a ban wants `crate` and `reason`")? })
    }
}

/// Whether an SPDX expression can be met with the allowed licences: any side of OR, both sides of AND.
fn allows(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    either(&mut rest, allowed) == Some(true) && rest.is_empty()
}

/// `None` where a licence should stand and does not.
fn either(rest: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let mut good = both(rest, allowed)?;
    while let ["OR", after @ ..] = *rest {
        *rest = after;
        good |= both(rest, allowed)?;
    }
    Some(good)
}

fn both(rest: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let mut good = one(rest, allowed)?;
    while let ["AND", after @ ..] = *rest {
        *rest = after;
        good &= one(rest, allowed)?;
    }
    Some(good)
}

fn one(rest: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let listed = |license: &str| Some(allowed.iter().any(|known| known == license));
    match *rest {
        ["(", after @ ..] => {
            *rest = after;
            let good = either(rest, allowed)?;
            let [")", after @ ..] = *rest else { return None };
            *rest = after;
            Some(good)
        }
        // An exception only adds rights, but it is a text of its own: it counts when it is listed as a whole.
        [license, "WITH", exception, after @ ..] => {
            *rest = after;
            listed(&format!("{license} WITH {exception}"))
        }
        [license, after @ ..] => {
            *rest = after;
            listed(license)
        }
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RULES: &str = r#"
        licenses.allow = ["MIT", "ISC"]
        bans.deny = [{ crate = "bad", reason = "it is" }]
    "#;

    fn findings(name: &str, license: Option<&str>, source: Option<&str>) -> Vec<String> {
        let package = json!({"name": name, "version": "1.0.0", "license": license, "source": source});
        let first = json!({"name": "a", "version": "1.0.0", "license": "MIT", "source": "registry+one"});
        check(&json!({ "packages": [first, package] }), RULES).expect("well formed")
    }

    #[test]
    fn what_is_allowed_passes() {
        assert!(findings("b", Some("MIT OR GPL-3.0"), Some("registry+one")).is_empty());
        assert!(findings("b", Some("MIT"), None).is_empty(), "our own");
    }

    #[test]
    fn what_is_not_is_found() {
        assert!(findings("bad", Some("MIT"), None)[0].contains("banned: it is"));
        assert!(findings("b", Some("GPL-3.0"), None)[0].contains("GPL-3.0"));
        assert!(findings("b", None, None)[0].contains("no licence"));
        assert!(
            findings("b", Some("MIT"), Some("git+https://x.example/"))[0].contains("not from a registry")
        );
        assert!(findings("b", Some("MIT"), Some("registry+two"))[0].contains("2 registries"));
    }

    #[test]
    fn expressions_are_read_as_spdx_says() {
        let allowed = ["MIT".to_owned(), "ISC".to_owned()];
        for good in ["MIT", "MIT/X", "X OR ISC", "MIT AND ISC", "(X OR MIT) AND ISC", "X AND Y OR MIT"] {
            assert!(allows(good, &allowed), "{good}");
        }
        for bad in ["", "X", "MIT AND X", "MIT OR", "(MIT", "MIT)", "MIT WITH X-exception", "X AND Y OR Z"] {
            assert!(!allows(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn rules_of_another_form_are_no_clean_bill() {
        assert!(check(&json!({"packages": []}), "").is_err());
        assert!(check(&json!({}), RULES).is_err());
    }
}
