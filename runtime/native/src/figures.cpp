#include "figures.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>

namespace edgestill {

namespace {

using json = nlohmann::ordered_json;

constexpr double kTail = 0.025;
constexpr int kResamples = 1000;
constexpr double kBlock = 8192;    // MLPerf's numbers of samples are multiples of it
constexpr double kNormal = 2.5758293035489004;  // 99% confidence, two-sided

json figure(json value, const std::string &unit, size_t n, json interval, const std::string &source) {
    return {{"value", std::move(value)}, {"unit", unit},         {"n", n},
            {"ci95", std::move(interval)}, {"basis", "measured"}, {"source", source}};
}

double interpolated(const std::vector<double> &ordered, double quantile) {
    const double place = quantile * static_cast<double>(ordered.size() - 1);
    const auto below = static_cast<size_t>(place);
    const size_t above = std::min(below + 1, ordered.size() - 1);
    return ordered[below] + (ordered[above] - ordered[below]) * (place - static_cast<double>(below));
}

// Ranks from 0 of the two order statistics that enclose a quantile; first > second: there are none.
std::pair<size_t, size_t> ranks_of(size_t n, double quantile) {
    std::vector<double> chance(n + 1);
    const auto count = static_cast<double>(n);
    for (size_t k = 0; k <= n; ++k) {
        const auto hits = static_cast<double>(k);
        chance[k] = std::exp(std::lgamma(count + 1) - std::lgamma(hits + 1) - std::lgamma(count - hits + 1) +
                             hits * std::log(quantile) + (count - hits) * std::log1p(-quantile));
    }
    // The lower one: as many samples or fewer lie below the quantile with at most the tail's chance.
    double below = 0;
    size_t lower = 0;
    while (lower <= n && below + chance[lower] <= kTail) below += chance[lower++];
    double above = 0;
    size_t upper = n;
    while (upper > 0 && above + chance[upper] <= kTail) above += chance[upper--];
    if (lower == 0 || upper == n) return {1, 0};
    return {lower - 1, upper};
}

std::string with_commas(double number) {
    std::string digits = std::to_string(static_cast<uint64_t>(number));
    for (size_t at = digits.size(); at > 3;) digits.insert(at -= 3, ",");
    return digits;
}

// splitmix64 (Steele et al., 2014).
uint64_t next_random(uint64_t &state) {
    uint64_t mixed = state += 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
}

}  // namespace

json missing_figure(const std::string &unit, const std::string &source) {
    return figure(nullptr, unit, 0, nullptr, source);
}

json single_figure(double value, const std::string &unit, const std::string &source) {
    return figure(value, unit, 1, nullptr, source);
}

json median_figure(std::vector<double> samples, const std::string &unit, const std::string &source) {
    if (samples.empty()) return missing_figure(unit, source);
    std::sort(samples.begin(), samples.end());
    const size_t n = samples.size();
    json interval;
    double tail = 0;
    double ways = std::pow(0.5, static_cast<double>(n));
    for (size_t rank = 0; rank < n / 2; ++rank) {
        tail += ways;
        if (2 * tail > 2 * kTail) break;
        interval = {samples[rank], samples[n - 1 - rank]};
        ways *= static_cast<double>(n - rank) / static_cast<double>(rank + 1);
    }
    const double middle = n % 2 != 0 ? samples[n / 2] : (samples[n / 2 - 1] + samples[n / 2]) / 2;
    return figure(middle, unit, n, std::move(interval), source);
}

json quantile_figure(std::vector<double> samples, double quantile, bool tail, const std::string &unit,
                     const std::string &source) {
    if (samples.empty()) return missing_figure(unit, source);
    std::sort(samples.begin(), samples.end());
    const auto [lower, upper] = ranks_of(samples.size(), quantile);
    const bool enclosed = lower <= upper;
    std::string said = source;
    if (tail) {
        const double margin = (1 - quantile) / 20;
        const double needed =
            std::ceil(kNormal * kNormal * quantile * (1 - quantile) / (margin * margin) / kBlock) * kBlock;
        if (!enclosed) {
            return missing_figure(unit, std::to_string(samples.size()) +
                                            " samples can't tell it; MLPerf's rule asks for " + with_commas(needed));
        }
        if (static_cast<double>(samples.size()) < needed) {
            said += "; MLPerf's rule would ask for " + with_commas(needed) + " samples";
        }
    }
    json interval;
    if (enclosed) interval = {samples[lower], samples[upper]};
    return figure(interpolated(samples, quantile), unit, samples.size(), std::move(interval), said);
}

json mean_figure(const std::vector<double> &samples, const std::string &unit, const std::string &source) {
    if (samples.empty()) return missing_figure(unit, source);
    const size_t n = samples.size();
    const auto count = static_cast<double>(n);
    const double mean = std::accumulate(samples.begin(), samples.end(), 0.0) / count;
    json interval;
    if (n > 1) {
        std::vector<double> means(kResamples);
        uint64_t state = 0;
        for (double &one : means) {
            double sum = 0;
            for (size_t draw = 0; draw < n; ++draw) sum += samples[next_random(state) % n];
            one = sum / count;
        }
        std::sort(means.begin(), means.end());
        interval = {interpolated(means, kTail), interpolated(means, 1 - kTail)};
    }
    return figure(mean, unit, n, std::move(interval), source);
}

}  // namespace edgestill
