// The one exception of this library: a status for the border and a line for a person.
#pragma once

#include <exception>
#include <string>
#include <utility>

#include "edgestill.h"

namespace edgestill {

class Failure : public std::exception {
public:
    Failure(es_status status, std::string text) : status_(status), text_(std::move(text)) {}

    es_status status() const noexcept { return status_; }
    const char *what() const noexcept override { return text_.c_str(); }

private:
    es_status status_;
    std::string text_;
};

}  // namespace edgestill
