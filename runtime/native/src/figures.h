// Figures as edgestill.figure has them: a value with its unit, samples, interval and source.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace edgestill {

// A figure that was not measured; `source` says why.
nlohmann::ordered_json missing_figure(const std::string &unit, const std::string &source);

// One measured value.
nlohmann::ordered_json single_figure(double value, const std::string &unit, const std::string &source);

// The median, with the interval between the order statistics whose binomial coverage is at least 95% (Conover,
// Practical Nonparametric Statistics, 3.2); no interval for n < 6, where none exists.
nlohmann::ordered_json median_figure(std::vector<double> samples, const std::string &unit, const std::string &source);

// A quantile by linear interpolation, with its order-statistic interval of equal tails; without one where n is too
// small. `tail`: the figure is missing then, and says how many samples MLPerf's rule would ask for.
nlohmann::ordered_json quantile_figure(std::vector<double> samples, double quantile, bool tail, const std::string &unit,
                               const std::string &source);

// The mean with its 95% percentile bootstrap interval (Efron, 1979); the same samples give the same interval.
nlohmann::ordered_json mean_figure(const std::vector<double> &samples, const std::string &unit, const std::string &source);

}  // namespace edgestill
