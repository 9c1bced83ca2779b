//! What the plots have in common: SVG files, written by hand.

/// How a file begins: its size, and its title at `left`.
pub fn head(width: f64, height: f64, left: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"20\" font-size=\"14\">{}</text>\n",
        escaped(title)
    )
}

/// A round distance between grid lines, of which at most eight are needed.
pub fn step(most: f64) -> f64 {
    let power = 10f64.powf((most / 8.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| most / step <= 8.0).unwrap_or(most)
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grid_lines_are_round_and_few() {
        assert_eq!((step(1.0e6), step(14.88e6), step(8.0), step(41.0)), (2e5, 2e6, 1.0, 10.0));
    }

    #[test]
    fn a_title_is_no_markup() {
        assert!(head(1.0, 1.0, 0.0, "a < b & c").contains(">a &lt; b &amp; c<"));
    }
}
