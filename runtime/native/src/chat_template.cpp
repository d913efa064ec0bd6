#include "chat_template.h"

#include "failure.h"
#include "jinja/lexer.h"
#include "jinja/parser.h"
#include "jinja/runtime.h"
#include "jinja/value.h"

namespace edgestill {

namespace {

constexpr size_t kMostTemplate = 1 << 20;
constexpr size_t kMostRendered = 16 << 20;

jinja::value text_value(const std::string &text) { return jinja::mk_val<jinja::value_string>(text); }

}  // namespace

std::string render(const std::string &chat_template, const std::vector<Message> &messages,
                   const std::string &bos_token, const std::string &eos_token) {
    if (messages.empty()) throw Failure(ES_USAGE, "a conversation needs at least one message");
    if (chat_template.empty()) {
        std::string text;
        for (const Message &message : messages) text += message.content + "\n";
        return text;
    }
    if (chat_template.size() > kMostTemplate) throw Failure(ES_CHANGED, "the chat template is too long");
    std::string text;
    try {
        jinja::lexer lexer;
        const jinja::lexer_result tokens = lexer.tokenize(chat_template);
        jinja::program program = jinja::parse_from_tokens(tokens);
        jinja::context context(tokens.source);
        jinja::value_array list = jinja::mk_val<jinja::value_array>();
        for (const Message &message : messages) {
            jinja::value_object one = jinja::mk_val<jinja::value_object>();
            one->insert("role", text_value(message.role));
            one->insert("content", text_value(message.content));
            list->push_back(one);
        }
        context.set_val("messages", list);
        context.set_val("tools", jinja::mk_val<jinja::value_none>());
        context.set_val("documents", jinja::mk_val<jinja::value_none>());
        if (!bos_token.empty()) context.set_val("bos_token", text_value(bos_token));
        if (!eos_token.empty()) context.set_val("eos_token", text_value(eos_token));
        context.set_val("add_generation_prompt", jinja::mk_val<jinja::value_bool>(true));
        jinja::runtime runtime(context);
        text = jinja::runtime::gather_string_parts(runtime.execute(program))->as_string().str();
    } catch (const Failure &) {
        throw;
    } catch (const std::exception &error) {
        throw Failure(ES_USAGE, std::string("the chat template refuses these messages: ") + error.what());
    }
    if (text.size() > kMostRendered) throw Failure(ES_USAGE, "the chat template wrote more than 16 MiB");
    return text;
}

}  // namespace edgestill
