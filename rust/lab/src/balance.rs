//! Balance as it is measured: counts of backends against their fair shares, in constant memory.
//!
//! A [`Ledger`] books one quantity (connections, bytes, or load) by backend. All that a backend
//! gets is booked, for as long as it gets any. A backend is a member while it has a share number
//! (weight or capacity): what it gets as one is compared with its fair share, and what lingers on
//! it when it is none stands beside, in no comparison. So fair shares add up to what members got.
//!
//! The fair share of a member is in proportion to its share number among the members of that
//! moment. Backends come and go, so shares are accrued: `accrued` grows by `amount / sum of shares`
//! with each booking of a member, and what a backend should have got is its share number times the
//! growth since it has that number. A booking costs O(1), a change O(1) for each backend that
//! changes, the end of a second O(1) for each backend.
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
    /// 0 while it is no member.
    share: f64,
    /// Until the last second ended: all that it got, that which lingered on it of this, and its
    /// fair share of the rest.
    sum: Amounts,
    /// Since then; its fair share until `mark`.
    second: Amounts,
    mark: f64,
}

/// What a backend got.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Amounts {
    /// In all.
    pub(crate) total: f64,
    /// Of this, while it was no member.
    pub(crate) lingering: f64,
    /// What it should have got while it was one.
    pub(crate) fair: f64,
}

impl Amounts {
    /// What it got as a member, against what it should have got; `None` if that is nothing.
    fn ratio(self) -> Option<f64> {
        (self.fair > 0.0).then(|| (self.total - self.lingering) / self.fair)
    }
}

impl std::ops::AddAssign for Amounts {
    fn add_assign(&mut self, other: Self) {
        self.total += other.total;
        self.lingering += other.lingering;
        self.fair += other.fair;
    }
}

impl Account {
    /// Brings the fair share up to date.
    fn accrue(&mut self, accrued: f64) {
        self.second.fair += self.share * (accrued - self.mark);
        self.mark = accrued;
    }
}

/// One quantity by backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    accounts: Vec<Account>,
    members: usize,
    shares: f64,
    /// In this second.
    accrued: f64,
    by_second: Mean,
}

impl Ledger {
    pub(crate) fn new(backends: usize) -> Self {
        Self { accounts: vec![Account::default(); backends], ..Self::default() }
    }

    /// Gives a backend another share number from now on; with 0 it is no member.
    pub(crate) fn set_share(&mut self, backend: usize, share: f64) {
        let account = &mut self.accounts[backend];
        account.accrue(self.accrued);
        self.members = self.members + usize::from(share > 0.0) - usize::from(account.share > 0.0);
        self.shares += share - account.share;
        account.share = share;
        if self.members == 0 {
            // Differences of fractions may have left some.
            self.shares = 0.0;
        }
    }

    /// The backend got so much.
    pub(crate) fn book(&mut self, backend: usize, amount: f64) {
        let account = &mut self.accounts[backend];
        account.second.total += amount;
        if account.share > 0.0 {
            self.accrued += amount / self.shares;
        } else {
            account.second.lingering += amount;
        }
    }

    /// Ends a second, and returns its indices over the backends that were members in it, each for
    /// its time.
    pub(crate) fn end_second(&mut self) -> Option<Indices> {
        for account in &mut self.accounts {
            account.accrue(self.accrued);
            account.mark = 0.0;
        }
        self.accrued = 0.0;
        let indices = Indices::of(self.accounts.iter().filter_map(|a| a.second.ratio()));
        for account in &mut self.accounts {
            account.sum += std::mem::take(&mut account.second);
        }
        if let Some(indices) = indices {
            self.by_second.add(indices);
        }
        indices
    }

    /// The indices over the whole run, of the backends that should have got anything.
    pub(crate) fn overall(&self) -> Option<Indices> {
        Indices::of((0..self.accounts.len()).filter_map(|backend| self.amounts(backend).ratio()))
    }

    /// The mean of the indices of all seconds.
    pub(crate) fn by_second(&self) -> Option<Indices> {
        self.by_second.value()
    }

    /// How many backends it knows.
    pub(crate) fn len(&self) -> usize {
        self.accounts.len()
    }

    /// What a backend got in the whole run.
    pub(crate) fn amounts(&self, backend: usize) -> Amounts {
        let mut account = self.accounts[backend];
        account.accrue(self.accrued);
        account.sum += account.second;
        account.sum
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
        assert_eq!(ledger.amounts(0), Amounts { total: 150.0, lingering: 0.0, fair: 150.0 });
        assert_eq!(ledger.amounts(1), Amounts { total: 50.0, lingering: 0.0, fair: 50.0 });
    }

    /// What comes to a backend that left is its own, and nobody's share.
    #[test]
    fn what_lingers_is_booked_and_not_compared() {
        let mut ledger = ledger(&[1.0, 1.0]);
        ledger.book(0, 10.0);
        ledger.book(1, 10.0);
        assert_eq!(ledger.end_second().map(|second| second.jain), Some(1.0));
        ledger.set_share(1, 0.0);
        ledger.book(0, 20.0);
        ledger.book(1, 1000.0);
        assert_eq!(ledger.amounts(1), Amounts { total: 1010.0, lingering: 1000.0, fair: 10.0 });
        assert_eq!(ledger.amounts(0), Amounts { total: 30.0, lingering: 0.0, fair: 30.0 });
        assert_eq!(ledger.end_second().map(|second| second.max_over_mean), Some(1.0));
        assert_eq!(ledger.overall().map(|run| run.max_over_mean), Some(1.0));
    }

    /// A backend that comes at the end of a second was owed nothing of it, one that leaves then
    /// was, and one that was there for a half of it was owed for this half.
    #[test]
    fn a_second_is_that_of_its_members_each_for_its_time() {
        let mut ledger = ledger(&[1.0, 1.0, 0.0]);
        ledger.book(0, 4.0);
        ledger.book(1, 4.0);
        ledger.set_share(1, 0.0);
        ledger.set_share(2, 3.0);
        ledger.book(0, 1.0);
        ledger.book(2, 3.0);
        ledger.set_share(1, 1.0);
        let second = ledger.end_second().expect("booked");
        assert_eq!((second.max_over_mean, second.jain), (1.0, 1.0));
    }
}
