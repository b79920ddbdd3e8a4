//! The costs as a plot: both axes logarithmic, one panel for each act.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{ACTS, Line};
use crate::memory::Kind;

/// Draws it to an SVG file.
pub fn plot(path: &str, batches: &[usize], lines: &[Line]) -> Result<()> {
    let root = SVGBackend::new(path, (1000, 760)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let root = root.titled("Cost of a page by pages a call", ("sans-serif", 22)).map_err(failed)?;
    for (area, act) in root.split_evenly((2, 2)).iter().zip(ACTS) {
        let of_act: Vec<&Line> = lines.iter().filter(|line| line.act == act).collect();
        let costs = of_act.iter().flat_map(|line| &line.ns_a_page).copied();
        let low = costs.clone().fold(f64::INFINITY, f64::min) * 0.7;
        let high = costs.fold(0.0, f64::max) * 1.4;
        let last = *batches.last().unwrap_or(&1) as f64;
        let mut chart = ChartBuilder::on(area)
            .caption(act.name(), ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d((1.0..last).log_scale().base(2.0), (low..high).log_scale())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc("pages a call")
            .y_desc("ns a page")
            .x_label_formatter(&|pages| format!("{pages:.0}"))
            .y_label_formatter(&|cost| format!("{cost}"))
            .light_line_style(WHITE)
            .draw()
            .map_err(failed)?;
        for line in of_act {
            let colour = colour(line.kind);
            let points = || batches.iter().map(|pages| *pages as f64).zip(line.ns_a_page.clone());
            chart
                .draw_series(LineSeries::new(points(), colour.stroke_width(2)).point_size(3))
                .map_err(failed)?
                .label(line.kind.name())
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(failed)?;
    }
    root.present().map_err(failed)
}

fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Base => RGBColor(31, 97, 168),
        Kind::Thp => RGBColor(200, 84, 30),
        Kind::Hugetlb => RGBColor(46, 133, 64),
    }
}

/// The drawing errors borrow what they are about.
fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("plot: {error}")
}
