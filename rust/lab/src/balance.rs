//! Balance as it is measured: counts of backends against their fair shares, in constant memory.
//!
//! A [`Ledger`] books one quantity (connections, bytes, or load) by backend. The fair share of a
//! backend is in proportion to its share number (weight or capacity) among those listed at that
//! moment. Backends come and go, so shares are accrued: `accrued` grows by `amount / sum of shares`
//! with each booking, and what a backend should have got while it was listed is its share number
//! times the growth since. A booking costs O(1), a change O(1) for each backend that changes.
//!
//! Three indices of the ratios x between what backends got and should have got: the largest over
//! the mean, the coefficient of variation (of the population), and Jain's index (1: even; 1 / n:
//! one has all).

use serde::Serialize;

/// The three indices; see above.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Indices {
    /// Largest ratio over the mean; 1 is even.
    pub max_over_mean: f64,
    /// Coefficient of variation; 0 is even.
    pub cv: f64,
    /// Jain's fairness index; 1 is even.
    pub jain: f64,
}

impl Indices {
    /// Of ratios whose mean is about 1; `None` without any, or if all are 0.
    #[must_use]
    pub fn of(ratios: impl Iterator<Item = f64>) -> Option<Self> {
        let (mut count, mut sum, mut squares, mut largest) = (0.0, 0.0, 0.0, 0.0f64);
        for ratio in ratios {
            count += 1.0;
            sum += ratio;
            squares += ratio * ratio;
            largest = largest.max(ratio);
        }
        if sum == 0.0 {
            return None;
        }
        let mean: f64 = sum / count;
        let variance = (squares / count - mean * mean).max(0.0);
        let cv = libm::sqrt(variance) / mean;
        Some(Self { max_over_mean: largest / mean, cv, jain: sum * sum / (count * squares) })
    }
}

/// The mean of indices over time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    count: f64,
    sums: [f64; 3],
}

impl Mean {
    pub(crate) fn add(&mut self, indices: Indices) {
        self.count += 1.0;
        for (sum, value) in
            self.sums.iter_mut().zip([indices.max_over_mean, indices.cv, indices.jain])
        {
            *sum += value;
        }
    }

    pub(crate) fn value(&self) -> Option<Indices> {
        let [max_over_mean, cv, jain] = self.sums.map(|sum| sum / self.count);
        (self.count > 0.0).then_some(Indices { max_over_mean, cv, jain })
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// 0 while it is not listed.
    share: f64,
    total: f64,
    second: f64,
    /// Its fair share until `mark`.
    expected: f64,
    mark: f64,
}

/// One quantity by backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    accounts: Vec<Account>,
    /// Backends with a share.
    listed: usize,
    shares: f64,
    accrued: f64,
    by_second: Mean,
}

impl Ledger {
    pub(crate) fn new(backends: usize) -> Self {
        Self { accounts: vec![Account::default(); backends], ..Self::default() }
    }

    /// Gives a backend another share number from now on; 0 takes it off the list.
    pub(crate) fn set_share(&mut self, backend: usize, share: f64) {
        let account = &mut self.accounts[backend];
        account.expected += account.share * (self.accrued - account.mark);
        account.mark = self.accrued;
        self.listed = self.listed + usize::from(share > 0.0) - usize::from(account.share > 0.0);
        self.shares += share - account.share;
        account.share = share;
        if self.listed == 0 {
            // Differences of fractions may have left some.
            self.shares = 0.0;
        }
    }

    /// The backend got so much.
    pub(crate) fn book(&mut self, backend: usize, amount: f64) {
        let account = &mut self.accounts[backend];
        account.total += amount;
        account.second += amount;
        if self.shares > 0.0 {
            self.accrued += amount / self.shares;
        }
    }

    /// Ends a second, and returns its indices over the backends that are listed.
    pub(crate) fn end_second(&mut self) -> Option<Indices> {
        let listed = self.accounts.iter().filter(|account| account.share > 0.0);
        let total: f64 = listed.clone().map(|account| account.second).sum();
        let fair = if self.shares > 0.0 { total / self.shares } else { 0.0 };
        let indices = (fair > 0.0)
            .then(|| Indices::of(listed.map(|a| a.second / (a.share * fair))))
            .flatten();
        for account in &mut self.accounts {
            account.second = 0.0;
        }
        if let Some(indices) = indices {
            self.by_second.add(indices);
        }
        indices
    }

    /// The indices over the whole run, of the backends that should have got anything.
    pub(crate) fn overall(&self) -> Option<Indices> {
        let rows = (0..self.accounts.len()).map(|backend| self.account(backend));
        Indices::of(rows.filter(|&(_, expected)| expected > 0.0).map(|(got, fair)| got / fair))
    }

    /// The mean of the indices of all seconds.
    pub(crate) fn by_second(&self) -> Option<Indices> {
        self.by_second.value()
    }

    /// How many backends it knows.
    pub(crate) fn len(&self) -> usize {
        self.accounts.len()
    }

    /// The amount that a backend got, and its fair share.
    pub(crate) fn account(&self, backend: usize) -> (f64, f64) {
        let account = &self.accounts[backend];
        let expected = account.expected + account.share * (self.accrued - account.mark);
        (account.total, expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(shares: &[f64]) -> Ledger {
        let mut ledger = Ledger::new(shares.len());
        for (backend, &share) in shares.iter().enumerate() {
            ledger.set_share(backend, share);
        }
        ledger
    }

    #[test]
    fn indices_are_those_of_the_definitions() {
        let indices = Indices::of([2.0, 4.0, 6.0].into_iter()).expect("three");
        assert_eq!(indices.max_over_mean, 1.5);
        // Variance 8/3 around 4.
        assert!((indices.cv - (8.0f64 / 3.0).sqrt() / 4.0).abs() < 1e-12);
        // 12^2 / (3 * 56)
        assert!((indices.jain - 144.0 / 168.0).abs() < 1e-12);
        assert_eq!(Indices::of([0.0, 0.0].into_iter()), None);
        let one_has_all = Indices::of([5.0, 0.0, 0.0, 0.0, 0.0].into_iter()).expect("five");
        assert_eq!((one_has_all.max_over_mean, one_has_all.jain), (5.0, 0.2));
    }

    #[test]
    fn shares_are_fair_by_weight() {
        let mut ledger = ledger(&[1.0, 3.0]);
        for _ in 0..10 {
            ledger.book(0, 1.0);
            ledger.book(1, 3.0);
        }
        let indices = ledger.overall().expect("booked");
        assert!((indices.max_over_mean - 1.0).abs() < 1e-12 && indices.cv < 1e-7);
        assert_eq!(ledger.end_second().map(|second| second.jain), Some(1.0));
        assert_eq!(ledger.end_second(), None, "nothing came in this second");
    }

    /// A backend that was listed for half of the connections is owed a quarter of them.
    #[test]
    fn a_backend_is_owed_only_while_it_is_listed() {
        let mut ledger = ledger(&[1.0, 0.0]);
        ledger.book(0, 100.0);
        ledger.set_share(1, 1.0);
        ledger.book(0, 50.0);
        ledger.book(1, 50.0);
        assert_eq!(ledger.account(0), (150.0, 150.0));
        assert_eq!(ledger.account(1), (50.0, 50.0));
    }
}
