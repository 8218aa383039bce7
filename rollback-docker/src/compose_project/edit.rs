//! A release made by another image of a service: the line of its image, and nothing else.
//!
//! The file is edited as text, so that comments and order stay. Whether the edit did what was meant, Compose says.

/// The text with another image of a service under `services:`; `None` where its line is not found. Only block style, as
/// people write it.
pub(super) fn with_image(text: &str, service: &str, image: &str) -> Option<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let is_text = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let named = |line: &str, name: &str| {
        let line = line.trim();
        let key =
            line.split_once(':').filter(|(_, rest)| rest.is_empty() || rest.starts_with([' ', '\t'])).map(|(k, _)| k);
        key.is_some_and(|key| key.trim().trim_matches(['"', '\'']) == name)
    };
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    // The block below a line: until the next line that is not deeper.
    let block = |from: usize| {
        let deep = indent(lines[from]);
        let end = (from + 1..lines.len()).find(|n| is_text(lines[*n]) && indent(lines[*n]) <= deep);
        from + 1..end.unwrap_or(lines.len())
    };
    let child = |range: std::ops::Range<usize>, name: &str| {
        let deep = range.clone().find(|n| is_text(lines[*n])).map(|n| indent(lines[n]))?;
        range.clone().find(|n| is_text(lines[*n]) && indent(lines[*n]) == deep && named(lines[*n], name))
    };
    let services = (0..lines.len()).find(|n| indent(lines[*n]) == 0 && named(lines[*n], "services"))?;
    let service = child(block(services), service)?;
    let line = child(block(service), "image")?;
    let (key, rest) = lines[line].split_once(':')?;
    let comment = rest.find(" #").map_or("", |at| rest[at..].trim_end());
    let end = if rest.ends_with('\n') { "\n" } else { "" };
    let edited = format!("{key}: {image}{comment}{end}");
    let mut all: Vec<&str> = lines.clone();
    all[line] = &edited;
    Some(all.concat())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TEXT: &str = "# shop\nname: shop\nservices:\n  web:\n    # the front\n    environment:\n      image: no\n    \
                        image: shop:2 # new\n  \"db\":\n    image: \"pg:15\"\nvolumes:\n  image:\n";

    #[test]
    fn one_line_is_edited_and_all_else_stays() {
        let edited = with_image(TEXT, "web", "shop:1").unwrap();
        assert_eq!(edited, TEXT.replace("shop:2", "shop:1"));
        let edited = with_image(TEXT, "db", "pg:14").unwrap();
        assert_eq!(edited, TEXT.replace("\"pg:15\"", "pg:14"));
        assert_eq!(with_image(TEXT, "none", "x"), None);
        assert_eq!(with_image("services: {web: {image: x}}\n", "web", "y"), None);
    }
}
