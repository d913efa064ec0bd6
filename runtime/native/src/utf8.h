// Text from bytes that come in pieces: never half a character, U+FFFD for what isn't UTF-8.
#pragma once

#include <string>

namespace edgestill {

class Utf8Stream {
public:
    // The text that `bytes` completes; what isn't whole yet waits.
    std::string push(const std::string &bytes);

    // What was held back, as replacement characters.
    std::string finish();

private:
    std::string held_;
};

}  // namespace edgestill
