//! Draws what `examples/scale.rs` prints: CSV on standard input, an SVG on standard output. Both axes
//! of each panel are logarithmic, and a dashed line shows what linear growth looks like.

use std::collections::BTreeMap;
use std::error::Error;

use plotters::prelude::*;

/// The seconds of one thing at each size.
type Series = Vec<(f64, f64)>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut order = Vec::new();
    let mut panels: BTreeMap<String, Vec<(String, Series)>> = BTreeMap::new();
    for line in std::io::read_to_string(std::io::stdin())?.lines().skip(1) {
        let mut fields = line.rsplitn(3, ',');
        let (Some(seconds), Some(size), Some(name)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (panel, what) = name.split_once(',').ok_or("a row without a panel")?;
        if !panels.contains_key(panel) {
            order.push(panel.to_owned());
        }
        let series = panels.entry(panel.to_owned()).or_default();
        let point = (size.parse()?, seconds.parse::<f64>()? * 1e3);
        match series.iter_mut().find(|(name, _)| name == what) {
            Some((_, points)) => points.push(point),
            None => series.push((what.to_owned(), vec![point])),
        }
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (1000, 800)).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, name) in root.split_evenly((2, 2)).iter().zip(&order) {
            draw(area, name, &panels[name])?;
        }
        root.present()?;
    }
    print!("{svg}");
    Ok(())
}

fn draw(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    name: &str,
    all: &[(String, Series)],
) -> Result<(), Box<dyn Error>> {
    let points = || all.iter().flat_map(|(_, points)| points.iter().copied());
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (left, right) = bounds(&mut points().map(|point| point.0));
    let (low, high) = bounds(&mut points().map(|point| point.1));
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .caption(name, ("sans-serif", 18))
        .x_label_area_size(28)
        .y_label_area_size(56)
        .build_cartesian_2d((left..right).log_scale(), (low / 2.0..high * 12.0).log_scale())?;
    chart.configure_mesh().y_desc("milliseconds").light_line_style(WHITE).draw()?;
    let linear = (0..=60).map(|step| left * (right / left).powf(f64::from(step) / 60.0));
    let linear = linear.map(|size| (size, low * size / left)).filter(|point| point.1 <= high);
    let dots = linear.step_by(2).map(|point| Circle::new(point, 1, BLACK.mix(0.4).filled()));
    chart.draw_series(dots)?.label("linear").legend(|at| Circle::new(at, 1, BLACK.mix(0.4)));
    for (index, (what, points)) in all.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        chart
            .draw_series(
                LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(3),
            )?
            .label(what.as_str())
            .legend(move |(x, y)| {
                PathElement::new([(x - 8, y), (x + 8, y)], color.stroke_width(2))
            });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}
