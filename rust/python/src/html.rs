//! Tables for notebooks: what `_repr_html_` gives.

/// A table of texts under a caption. Every text is escaped: names come from objects of others.
pub(crate) fn table(
    caption: &str,
    head: &[impl AsRef<str>],
    rows: impl Iterator<Item = Vec<String>>,
) -> String {
    let mut html = format!("<table><caption>{}</caption>", escaped(caption));
    if !head.is_empty() {
        row(&mut html, "th", head);
    }
    rows.for_each(|cells| row(&mut html, "td", &cells));
    html + "</table>"
}

fn row(html: &mut String, tag: &str, cells: &[impl AsRef<str>]) {
    html.push_str("<tr>");
    for cell in cells {
        html.extend(["<", tag, " style=\"text-align: left\">"]);
        html.push_str(&escaped(cell.as_ref()));
        html.extend(["</", tag, ">"]);
    }
    html.push_str("</tr>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
