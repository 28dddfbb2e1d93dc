//! What a role's `/metrics` says.

/// One scrape.
pub struct Metrics {
    text: String,
}

impl Metrics {
    pub fn parse(text: String) -> Metrics {
        Metrics { text }
    }

    /// The value of the series with exactly these labels, in any order; 0 where there is none.
    ///
    /// ```ignore
    /// metrics.value("catchup_messages_total", &[("outcome", "stored")])
    /// ```
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut wanted: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        wanted.sort();
        let mut series = self.series(name);
        let found = series.find(|(labels, _)| *labels == wanted);
        found.map_or(0.0, |(_, value)| value)
    }

    /// The sum over all series of this name.
    pub fn sum(&self, name: &str) -> f64 {
        self.series(name).map(|(_, value)| value).sum()
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn series(&self, name: &str) -> impl Iterator<Item = (Vec<String>, f64)> {
        self.text.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once('}')?,
                None => ("", rest.strip_prefix(' ')?),
            };
            let mut labels: Vec<String> = labels.split(',').map(str::to_owned).collect();
            labels.retain(|label| !label.is_empty());
            labels.sort();
            Some((labels, value.trim().parse().ok()?))
        })
    }
}
