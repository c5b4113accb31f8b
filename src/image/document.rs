//! The JSON documents of an image, read as leniently as Go reads them and written reproducibly.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};

/// The most bytes that a manifest, an index or a config may have.
pub(super) const DOCUMENT_LIMIT: u64 = 16 << 20;

/// Parses a document; `name` is what an error calls it.
///
/// A field that is `null` counts as absent: Go writes an empty list as `null` or leaves it out, and
/// those who wrote the images used Go.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], name: &str) -> Result<T> {
    let mut value = parse_value(bytes, name)?;
    remove_nulls(&mut value);
    serde_json::from_value(value).map_err(|error| malformed(name, &error))
}

/// Parses a document as it is.
pub(super) fn parse_value(bytes: &[u8], name: &str) -> Result<Value> {
    check_size(bytes.len() as u64, name)?;
    serde_json::from_slice(bytes).map_err(|error| malformed(name, &error))
}

/// Fails for a document that is larger than any honest one.
pub(super) fn check_size(size: u64, name: &str) -> Result<()> {
    if size <= DOCUMENT_LIMIT {
        return Ok(());
    }
    let message = format!("{name} has {size} bytes; at most {DOCUMENT_LIMIT} are read");
    Err(Error::new(ErrorKind::LimitExceeded, message))
}

/// The bytes of a document with its keys sorted, so that they depend on nothing else.
pub(super) fn to_bytes(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let unwritable =
        |error| Error::new(ErrorKind::InvalidInput, "write a document of the image").because(error);
    let mut value = serde_json::to_value(value).map_err(unwritable)?;
    value.sort_all_objects();
    serde_json::to_vec(&value).map_err(unwritable)
}

/// The error for a document, blob or file that is not what it should be.
pub(super) fn invalid(name: &str, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{name}: {what}"))
}

fn malformed(name: &str, error: &serde_json::Error) -> Error {
    invalid(name, format_args!("malformed JSON: {error}"))
}

fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// Decodes base64 as RFC 4648, section 4, has it: padded, no line breaks.
pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(4) {
        return None;
    }
    let digits = bytes.strip_suffix(b"==").or_else(|| bytes.strip_suffix(b"=")).unwrap_or(bytes);
    let mut decoded = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for &digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    // Bits left over must be zeros, so that there is one spelling only.
    (bits == 0).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_absent() {
        #[derive(serde::Deserialize)]
        struct Outer {
            name: Option<String>,
            inner: Inner,
        }
        #[derive(serde::Deserialize)]
        struct Inner {
            #[serde(default)]
            list: Vec<u8>,
        }
        for text in [r#"{"name":null,"inner":{"list":null}}"#, r#"{"inner":{}}"#] {
            let outer: Outer = parse(text.as_bytes(), "x").unwrap();
            assert!(outer.name.is_none() && outer.inner.list.is_empty());
        }
        let error = parse::<Outer>(b"{", "blob x").map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().starts_with("blob x: malformed JSON"), "{error}");
    }

    #[test]
    fn nesting_without_end_is_an_error_and_no_overflow() {
        let deep = "[".repeat(1 << 20);
        assert!(parse_value(deep.as_bytes(), "x").is_err());
    }

    #[test]
    fn documents_are_written_with_sorted_keys() {
        let value = serde_json::json!({"b": {"d": 1, "c": [{"f": 0, "e": 0}]}, "a": 2});
        assert_eq!(to_bytes(&value).unwrap(), br#"{"a":2,"b":{"c":[{"e":0,"f":0}],"d":1}}"#);
    }

    #[test]
    fn base64() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("+/+/", &[0xfb, 0xff, 0xbf]),
        ] {
            assert_eq!(decode_base64(text).as_deref(), Some(bytes), "{text}");
        }
        for bad in ["Zg", "Zg=", "Z===", "Zh==", "Zm9v\n", "Zm=v", "===="] {
            assert_eq!(decode_base64(bad), None, "{bad}");
        }
    }
}
