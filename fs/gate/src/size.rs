//! Sizes as people write them.

/// Reads a size: a number, which may have a fraction, with an optional suffix K, M, G or T (powers of 1024; also as Ki,
/// KiB).
///
/// # Errors
/// It looks like none, or is no whole number of bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..].to_ascii_uppercase()[..] {
        "" | "B" => 0,
        "K" | "KI" | "KIB" => 10,
        "M" | "MI" | "MIB" => 20,
        "G" | "GI" | "GIB" => 30,
        "T" | "TI" | "TIB" => 40,
        other => return Err(format!("unknown suffix '{other}': use K, M, G or T")),
    };
    let number = || "not a number".to_owned();
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || fraction.is_empty() || fraction.len() > 9 {
        return Err(number());
    }
    let whole: u64 = whole.parse().map_err(|_| number())?;
    let fraction: u128 = format!("{fraction:0<9}").parse().map_err(|_| number())?;
    let rest = fraction << shift;
    if !rest.is_multiple_of(1_000_000_000) {
        return Err("not a whole number of bytes".to_owned());
    }
    let rest = (rest / 1_000_000_000) as u64;
    let bytes = whole.checked_mul(1 << shift).and_then(|bytes| bytes.checked_add(rest));
    bytes.ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_have_suffixes_and_limits() {
        assert_eq!(parse("4G"), Ok(4 << 30));
        assert_eq!(parse("512MiB"), Ok(512 << 20));
        assert_eq!(parse("4096"), Ok(4096));
        assert!(parse("4X").is_err() && parse("").is_err());
        assert!(parse("99999999T").is_err());
        assert_eq!(parse("4Gi"), Ok(4 << 30));
        assert_eq!(parse("1.5G"), Ok(3 << 29));
        assert_eq!(parse("0.25k"), Ok(256));
        assert!(parse("1.3").is_err() && parse("1.").is_err() && parse(".G").is_err());
        assert!(parse("-1G").is_err() && parse("1.5.5G").is_err());
    }
}
