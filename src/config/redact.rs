//! Settings as they may be shown.

use serde_json::Value;

/// What stands for a secret.
pub const REDACTED: &str = "(not shown)";

/// Parts of a key that make its value a secret, unless it names a file with the secret.
const SECRETS: [&str; 6] = [
    "secret",
    "token",
    "password",
    "passphrase",
    "authorization",
    "credential",
];

/// Replaces every secret in `value`, and what stands before the `@` of an address.
pub fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if is_secret(key) && !is_empty(value) {
                    *value = REDACTED.into();
                } else {
                    redact(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::String(text) => {
            if let Some(shown) = without_user(text) {
                *text = shown;
            }
        }
        _ => {}
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let names_a_file = ["_file", "_path", "_dir"]
        .iter()
        .any(|end| key.ends_with(end));
    !names_a_file && SECRETS.iter().any(|secret| key.contains(secret))
}

/// Whether there is nothing to hide; to hide that would hide that it is not set.
fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

/// `https://user:word@host/` without its user.
fn without_user(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (_, host) = authority.rsplit_once('@')?;
    Some(format!("{scheme}://{REDACTED}@{host}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_hidden_wherever_they_are_and_nothing_else_is() {
        let mut value = json!({
            "control": { "token_file": "/etc/token", "mode": "0660" },
            "handlers": [{
                "url": "https://user:word@example.org/path?a=b@c",
                "plain": "https://example.org/@x",
                "secret": "hunter2",
                "hub_token": { "a": 1 },
                "headers": { "Authorization": "Bearer x", "accept": "*/*" },
                "empty_secret": "",
            }],
        });
        redact(&mut value);
        let hidden = REDACTED;
        assert_eq!(
            value,
            json!({
                "control": { "token_file": "/etc/token", "mode": "0660" },
                "handlers": [{
                    "url": format!("https://{hidden}@example.org/path?a=b@c"),
                    "plain": "https://example.org/@x",
                    "secret": hidden,
                    "hub_token": hidden,
                    "headers": { "Authorization": hidden, "accept": "*/*" },
                    "empty_secret": "",
                }],
            })
        );
    }
}
