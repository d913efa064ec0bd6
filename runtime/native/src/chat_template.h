// A conversation -> the text that a model was trained on, by its jinja template.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace edgestill {

struct Message {
    std::string role;
    std::string content;
};

// Without a template (empty) the contents stand one after another, each on its own line. Throws Failure.
std::string render(const std::string &chat_template, const std::vector<Message> &messages,
                   const std::string &bos_token, const std::string &eos_token);

}  // namespace edgestill
