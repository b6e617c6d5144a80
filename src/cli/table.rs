//! Columns for people: aligned, coloured, and no wider than the terminal if
//! possible.

/// What a table is printed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paper {
    /// How wide it is, if it is a terminal.
    pub(super) width: Option<usize>,
    /// Whether colours and bars are wanted.
    pub(super) colours: bool,
}

/// A colour, by its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    None,
    Good,
    Wait,
    Bad,
    Quiet,
}

impl Paper {
    /// A text in that colour.
    pub(super) fn paint(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::None => return text.to_owned(),
            Colour::Good => "32",
            Colour::Wait => "33",
            Colour::Bad => "1;31",
            Colour::Quiet => "2",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A child's name, in a colour that is the same each time: what several children say
    /// can be told apart at a glance.
    pub(super) fn name(self, name: &str) -> String {
        /// Cyan, magenta, blue and their bright forms: none that means something elsewhere.
        const CODES: [u8; 6] = [36, 35, 34, 96, 95, 94];
        let sum = name.bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        if self.colours { format!("\x1b[{}m{name}\x1b[0m", CODES[sum % CODES.len()]) } else { name.to_owned() }
    }
}

/// A column: its title, and one cell per row. In rows without a head, no column has a title.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Whether it is aligned to the right, as numbers are.
    pub(super) right: bool,
    /// Whether it is left out if the paper is too narrow. The highest one goes first. 0: it
    /// never is; from [`DETAIL`] on: even before names are cut.
    pub(super) gives_way: u8,
    /// Whether cells that are cut keep their first word and their end, as paths should.
    pub(super) keeps_end: bool,
    pub(super) cells: Vec<(String, Colour)>,
}

/// From here on, a column is worth less than a whole name.
pub(super) const DETAIL: u8 = 10;
/// Names are not cut shorter than this.
const NAME: usize = 12;
/// The space between two columns.
const GAP: usize = 2;

impl Column {
    pub(super) fn text(title: &'static str, cells: impl Iterator<Item = (String, Colour)>) -> Column {
        Column { title, right: false, gives_way: 0, keeps_end: false, cells: cells.collect() }
    }

    pub(super) fn number(title: &'static str, cells: impl Iterator<Item = String>) -> Column {
        Column { right: true, ..Column::text(title, cells.map(|cell| (cell, Colour::None))) }
    }

    /// Lets this column be left out, sooner than those with a lower number.
    pub(super) fn gives_way(self, gives_way: u8) -> Column {
        Column { gives_way, ..self }
    }

    /// Has cells that are cut keep their end.
    pub(super) fn keeps_end(self) -> Column {
        Column { keeps_end: true, ..self }
    }

    /// Whether it says nothing in any row.
    fn is_blank(&self) -> bool {
        self.cells.iter().all(|(cell, _)| matches!(cell.as_str(), "" | "-" | "0" | "0B" | "0%" | "0.0s"))
    }

    fn width(&self) -> usize {
        let cells = self.cells.iter().map(|(cell, _)| cell.chars().count());
        cells.max().unwrap_or(0).max(self.title.len())
    }

    /// Cuts its cells to that width; ".." stands for what is cut.
    fn cut(&mut self, width: usize) {
        for (cell, _) in self.cells.iter_mut().filter(|(cell, _)| cell.chars().count() > width) {
            let (first, rest) = match cell.split_once(' ').filter(|_| self.keeps_end) {
                Some((first, rest)) => (format!("{first} .."), rest),
                None => (String::new(), cell.as_str()),
            };
            *cell = if self.keeps_end {
                let kept = width.saturating_sub(first.chars().count());
                let from = rest.chars().count().saturating_sub(kept);
                first + &rest.chars().skip(from).collect::<String>()
            } else {
                rest.chars().take(width.saturating_sub(2)).chain("..".chars()).collect()
            };
        }
    }
}

fn width(columns: &[Column]) -> usize {
    columns.iter().map(|column| column.width() + GAP).sum::<usize>().saturating_sub(GAP)
}

/// Makes the columns fit if possible. Details that say nothing are left out first, then other
/// details; then the names, which are the first column, are cut; then other columns are left
/// out, again those first that say nothing.
fn fitted(mut columns: Vec<Column>, most: usize) -> Vec<Column> {
    loop {
        let over = width(&columns).saturating_sub(most);
        let Some(names) = columns.first().filter(|_| over > 0) else { return columns };
        let now = names.width();
        let shortest = NAME.max(names.title.len());
        if let Some(place) = next_to_go(&columns, DETAIL) {
            columns.remove(place);
        } else if now > shortest {
            columns[0].cut(now.saturating_sub(over).max(shortest));
        } else if let Some(place) = next_to_go(&columns, 1) {
            columns.remove(place);
        } else {
            return columns;
        }
    }
}

/// The column that is left out next, of those that give way at least so readily.
fn next_to_go(columns: &[Column], least: u8) -> Option<usize> {
    let able = columns.iter().enumerate().filter(|(_, column)| column.gives_way >= least);
    able.max_by_key(|(_, column)| (column.is_blank(), column.gives_way)).map(|(place, _)| place)
}

/// The table, each line with its newline.
pub(super) fn table(columns: Vec<Column>, paper: Paper) -> String {
    let columns = match paper.width {
        Some(most) => fitted(columns, most),
        None => columns,
    };
    let rows = columns.first().map_or(0, |column| column.cells.len());
    let widths: Vec<usize> = columns.iter().map(Column::width).collect();
    let line = |cell: &dyn Fn(&Column) -> (String, Colour)| {
        let last = columns.len().saturating_sub(1);
        let cells = columns.iter().zip(&widths).enumerate().map(|(place, (column, width))| {
            let (text, colour) = cell(column);
            let padding = " ".repeat(width - text.chars().count());
            match (column.right, place == last) {
                (true, _) => padding + &paper.paint(colour, &text),
                (false, true) => paper.paint(colour, &text),
                (false, false) => paper.paint(colour, &text) + &padding,
            }
        });
        cells.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end_matches(' ').to_owned() + "\n"
    };
    let head = line(&|column| (column.title.to_owned(), Colour::Quiet));
    let body = (0..rows).map(|row| line(&|column| column.cells[row].clone()));
    let has_head = columns.iter().any(|column| !column.title.is_empty());
    has_head.then_some(head).into_iter().chain(body).collect()
}

/// A share of the whole as a bar, or as a number if bars are not wanted.
pub(super) fn bar(part: u64, whole: u64, paper: Paper) -> (String, Colour) {
    const CELLS: u64 = 10;
    let share = |of: u64| part.min(whole).checked_mul(of).and_then(|n| n.checked_div(whole)).unwrap_or(0);
    let percent = share(100);
    let colour = match percent {
        0..50 => Colour::None,
        50..90 => Colour::Wait,
        _ => Colour::Bad,
    };
    if !paper.colours {
        return (format!("{percent}%"), Colour::None);
    }
    // If anything waits, at least one cell shows it.
    let full = usize::try_from(share(CELLS).max(u64::from(part > 0))).unwrap_or(0);
    (format!("[{}{}] {percent:>3}%", "#".repeat(full), ".".repeat(10 - full)), colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paper = Paper { width: None, colours: false };

    fn columns(name: &str) -> Vec<Column> {
        let cells = |text: &str| std::iter::once((text.to_owned(), Colour::None));
        vec![
            Column::text("CHILD", cells(name)),
            Column::text("STATE", cells("up")),
            Column::text("LAST EXIT", cells("SIGKILL 5m ago")).gives_way(1),
            Column::number("MSGS/S", std::iter::once("12".to_owned())),
        ]
    }

    #[test]
    fn names_are_cut_before_anything_is_left_out() {
        let name = "a-very-long-name-for-a-child-of-somebody";
        assert_eq!(
            table(columns(name), PLAIN).lines().nth(1).unwrap(),
            format!("{name}  up     SIGKILL 5m ago      12")
        );
        let at = |width| table(columns(name), Paper { width: Some(width), ..PLAIN });
        assert_eq!(
            at(50),
            "CHILD                STATE  LAST EXIT       MSGS/S
a-very-long-name-..  up     SIGKILL 5m ago      12
"
        );
        assert_eq!(at(30), "CHILD         STATE  MSGS/S\na-very-lon..  up         12\n");
        assert_eq!(at(5), at(30));
    }

    #[test]
    fn details_go_before_names_are_cut_and_first_those_that_say_nothing() {
        let cells = |text: &str| std::iter::once((text.to_owned(), Colour::None));
        let columns = || {
            vec![
                Column::text("CHILD", cells("a-name-of-twenty-one.")),
                Column::number("MEM", std::iter::once("4M".to_owned())).gives_way(DETAIL + 2),
                Column::number("CPU", std::iter::once("0%".to_owned())).gives_way(DETAIL + 1),
                Column::number("PID", std::iter::once("4242".to_owned())).gives_way(1),
            ]
        };
        let at = |width| table(columns(), Paper { width: Some(width), ..PLAIN });
        assert_eq!(at(40), "CHILD                  MEM  CPU   PID\na-name-of-twenty-one.   4M   0%  4242\n");
        assert_eq!(at(36), "CHILD                  MEM   PID\na-name-of-twenty-one.   4M  4242\n");
        assert_eq!(at(30), "CHILD                   PID\na-name-of-twenty-one.  4242\n");
        assert_eq!(at(20), "CHILD            PID\na-name-of-tw..  4242\n");
        assert_eq!(at(13), "CHILD\na-name-of-..\n");
    }

    #[test]
    fn rows_without_titles_have_no_head_and_paths_keep_their_end() {
        let cells = ["FILE /var/log/plumbd/messages.log", "FILE /x"].map(|text| (text.to_owned(), Colour::None));
        let names = Column::text("", cells.into_iter()).keeps_end();
        let sizes = Column::number("", ["884K", "7K"].into_iter().map(str::to_owned));
        assert_eq!(
            table(vec![names, sizes], Paper { width: Some(30), ..PLAIN }),
            "FILE ..umbd/messages.log  884K\nFILE /x                     7K\n"
        );
    }

    #[test]
    fn a_bar_shows_what_waits_however_little() {
        let fancy = Paper { width: Some(80), colours: true };
        assert_eq!(bar(0, 1 << 20, fancy).0, "[..........]   0%");
        assert_eq!(bar(1, 1 << 20, fancy).0, "[#.........]   0%");
        assert_eq!(bar(1 << 20, 1 << 20, fancy), ("[##########] 100%".to_owned(), Colour::Bad));
        assert_eq!(bar(2 << 20, 1 << 20, fancy).0, "[##########] 100%");
        assert_eq!(bar(7, 0, fancy).0, "[#.........]   0%");
        assert_eq!(bar(600, 1000, PLAIN).0, "60%");
    }

    #[test]
    fn colours_are_no_part_of_the_width() {
        let fancy = Paper { width: Some(80), colours: true };
        let plain: Vec<String> = table(columns("x"), PLAIN).lines().map(str::to_owned).collect();
        let painted = table(columns("x"), fancy).replace("\x1b[2m", "").replace("\x1b[0m", "");
        assert_eq!(painted.lines().collect::<Vec<_>>(), plain);
    }
}
