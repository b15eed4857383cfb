//! Where one statement ends and the next begins in text that is being typed or piped: at a `;` that is not inside quotes or a comment.

/// What the text up to some point is inside of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Nothing,
    Quotes(char),
    LineComment,
    BlockComment,
}

/// The complete statements (without their `;`, without empty ones) and the text after the last `;`.
///
/// ```
/// # use query::statements::split;
/// assert_eq!(split("SELECT ';'; SELECT 2"), (vec!["SELECT ';'"], " SELECT 2"));
/// ```
pub fn split(text: &str) -> (Vec<&str>, &str) {
    let mut statements = Vec::new();
    let mut begin = 0;
    let mut inside = Inside::Nothing;
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let next = characters.peek().map(|(_, next)| *next);
        inside = match (inside, character, next) {
            (Inside::Nothing, ';', _) => {
                statements.push(text[begin..at].trim());
                begin = at + 1;
                Inside::Nothing
            }
            (Inside::Nothing, '\'' | '"', _) => Inside::Quotes(character),
            (Inside::Nothing, '-', Some('-')) => Inside::LineComment,
            (Inside::Nothing, '/', Some('*')) => {
                characters.next();
                Inside::BlockComment
            }
            (Inside::BlockComment, '*', Some('/')) => {
                characters.next();
                Inside::Nothing
            }
            // A doubled quote leaves and enters again, which comes to the same.
            (Inside::Quotes(quote), c, _) if c == quote => Inside::Nothing,
            (Inside::LineComment, '\n', _) => Inside::Nothing,
            _ => inside,
        };
    }
    statements.retain(|statement| !is_blank(statement));
    (statements, &text[begin..])
}

/// Nothing but space and line comments?
pub fn is_blank(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with("--"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_semicolon_ends_a_statement_unless_it_is_quoted() {
        assert_eq!(split("a; b;\nc"), (vec!["a", "b"], "\nc"));
        assert_eq!(split("';''';\";\";"), (vec!["';'''", "\";\""], ""));
        assert_eq!(split("a -- x; y'\n; /* ; ' */ b;"), (vec!["a -- x; y'", "/* ; ' */ b"], ""));
        assert_eq!(split("'open; text"), (vec![], "'open; text"));
        assert_eq!(split(";; -- c\n;"), (vec![], ""));
        assert_eq!(split("a - - b; c / * d;"), (vec!["a - - b", "c / * d"], ""));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_nothing_after_the_last_semicolon_is_lost(text in "[a;'\"/*\\-\n ü]{0,40}") {
            let (_, rest) = split(&text);
            prop_assert!(text.ends_with(rest));
        }
    }
}
