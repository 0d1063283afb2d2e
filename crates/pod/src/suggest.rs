//! "Did you mean": the nearest of the words that are known in a place.

/// The word of `known` that `word` was most likely meant to be.
///
/// Case does not count, nor the ending of the API's type names (`TCPSocketAction` is `tcpSocket`).
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = simplified(word);
    let distances =
        known.into_iter().take(CANDIDATES_MAX).map(|candidate| (distance(&wanted, &simplified(candidate)), candidate));
    let (distance, candidate) = distances.min_by_key(|(distance, _)| *distance)?;
    let longest = wanted.len().max(candidate.len());
    (distance <= (longest / 4).max(1) && distance < wanted.len()).then_some(candidate)
}

/// `, did you mean "x"?`, or nothing.
pub fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map(|known| format!(", did you mean \"{known}\"?")).unwrap_or_default()
}

/// Longer words are not guessed at: the table below would grow with the product of the lengths.
const WORD_MAX: usize = 64;

/// Names that a manifest itself brings (volumes) may be many; the API's are fewer.
const CANDIDATES_MAX: usize = 200;

fn simplified(word: &str) -> Vec<char> {
    let word = word.strip_suffix("Action").filter(|rest| !rest.is_empty()).unwrap_or(word);
    word.chars().flat_map(char::to_lowercase).take(WORD_MAX).collect()
}

/// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
fn distance(from: &[char], to: &[char]) -> usize {
    let mut rows = vec![vec![0; to.len() + 1]; from.len() + 1];
    for (index, row) in rows.iter_mut().enumerate() {
        row[0] = index;
    }
    rows[0] = (0..=to.len()).collect();
    for i in 1..=from.len() {
        for j in 1..=to.len() {
            let change = usize::from(from[i - 1] != to[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_words_are_recognised() {
        let fields =
            ["livenessProbe", "readinessProbe", "image", "name", "args", "env", "tcpSocket", "httpGet", "exec"];
        for (word, expected) in [
            ("livenesProbe", Some("livenessProbe")),
            ("LivenessProbe", Some("livenessProbe")),
            ("readynessProbe", Some("readinessProbe")),
            ("imgae", Some("image")),
            ("arg", Some("args")),
            ("CPSocketAction", Some("tcpSocket")),
            ("TCPSocketAction", Some("tcpSocket")),
            ("HTTPGetAction", Some("httpGet")),
            ("ExecAction", Some("exec")),
            ("Nme", Some("name")),
            ("foo", None),
            ("x", None),
            ("", None),
            ("somethingElse", None),
        ] {
            assert_eq!(nearest(word, fields), expected, "{word:?}");
        }
        assert_eq!(nearest("Nerver", ["Always", "OnFailure", "Never"]), Some("Never"));
        assert_eq!(nearest("x", []), None);
        assert_eq!(hint("Nerver", ["Never"]), ", did you mean \"Never\"?");
    }
}
