// The border: C arguments in, statuses out. Every exception ends here.
#include "edgestill.h"

#include <cstring>
#include <new>
#include <string>

#include <nlohmann/json.hpp>

#include "failure.h"
#include "probe.h"
#include "session.h"

struct es_session {
    edgestill::Session session;
};

namespace {

using edgestill::Failure;
using json = nlohmann::json;

thread_local std::string failed;

template <typename Work>
es_status guarded(Work work) noexcept {
    try {
        failed.clear();
        work();
        return ES_OK;
    } catch (const Failure &failure) {
        try {
            failed = failure.what();
        } catch (...) {
            failed.clear();
        }
        return failure.status();
    } catch (const std::bad_alloc &) {
        failed = "out of memory";  // short enough for no allocation
        return ES_MEMORY;
    } catch (const std::exception &error) {
        try {
            failed = error.what();
        } catch (...) {
            failed.clear();
        }
        return ES_INTERNAL;
    } catch (...) {
        failed.clear();
        return ES_INTERNAL;
    }
}

void wants(bool given, const char *what) {
    if (!given) throw Failure(ES_USAGE, std::string(what) + " is NULL");
}

// Copy a struct whose first member is its size: what an older caller doesn't know stays zero.
template <typename Struct>
Struct taken(const Struct *given) {
    Struct known{};
    if (given == nullptr) return known;
    if (given->size < sizeof given->size || given->size > 4 * sizeof known) {
        throw Failure(ES_USAGE, "set the structure's size to its sizeof");
    }
    std::memcpy(&known, given, given->size < sizeof known ? given->size : sizeof known);
    return known;
}

void give_ids(const std::vector<int32_t> &found, int32_t *ids, size_t room, size_t *count) {
    wants(count != nullptr, "count");
    *count = found.size();
    if (found.size() > room) throw Failure(ES_ROOM, "room for " + std::to_string(found.size()) + " ids is needed");
    if (found.empty()) return;
    wants(ids != nullptr, "ids");
    std::memcpy(ids, found.data(), found.size() * sizeof(int32_t));
}

std::vector<edgestill::Message> messages_of(const char *text) {
    const json value = json::parse(text, nullptr, false);
    std::vector<edgestill::Message> messages;
    if (value.is_array()) {
        for (const json &one : value) {
            if (!one.is_object()) break;
            const auto role = one.find("role"), content = one.find("content");
            if (role == one.end() || content == one.end() || !role->is_string() || !content->is_string()) break;
            messages.push_back({role->get<std::string>(), content->get<std::string>()});
        }
    }
    if (!value.is_array() || messages.size() != value.size()) {
        throw Failure(ES_USAGE, "messages: not a JSON list of objects with a role and a content");
    }
    return messages;
}

}  // namespace

uint32_t es_abi_version(void) { return ES_ABI_VERSION; }

const char *es_error(void) { return failed.c_str(); }

es_status es_open(const char *path, const char *artifact, const es_options *options, es_session **session) {
    return guarded([&] {
        wants(session != nullptr, "session");
        *session = nullptr;
        wants(path != nullptr, "path");
        const es_options given = taken(options);
        *session = new es_session{{path, artifact == nullptr ? "" : artifact, given}};
    });
}

void es_close(es_session *session) { delete session; }

es_status es_tokenize(es_session *session, const char *text, size_t length, int add_special, int32_t *ids, size_t room,
                      size_t *count) {
    return guarded([&] {
        wants(session != nullptr, "session");
        wants(text != nullptr || length == 0, "text");
        give_ids(session->session.model().tokenize(length == 0 ? "" : text, length, add_special != 0), ids, room, count);
    });
}

es_status es_apply_template(es_session *session, const char *messages, es_on_text on_text, void *user) {
    return guarded([&] {
        wants(session != nullptr, "session");
        wants(messages != nullptr, "messages");
        wants(on_text != nullptr, "on_text");
        const std::string text = session->session.apply_template(messages_of(messages));
        on_text(user, text.c_str(), text.size());
    });
}

es_status es_generate(es_session *session, const int32_t *ids, size_t count, const es_generation *generation,
                      es_on_token on_token, void *user) {
    return guarded([&] {
        wants(session != nullptr, "session");
        wants(ids != nullptr || count == 0, "ids");
        session->session.begin();
        session->session.generate(ids, count, taken(generation), on_token, user);
    });
}

es_status es_answer(es_session *session, int32_t *ids, size_t room, size_t *count) {
    return guarded([&] {
        wants(session != nullptr, "session");
        give_ids(session->session.answer(), ids, room, count);
    });
}

es_status es_text(es_session *session, es_on_text on_text, void *user) {
    return guarded([&] {
        wants(session != nullptr, "session");
        wants(on_text != nullptr, "on_text");
        const std::string &text = session->session.text();
        on_text(user, text.c_str(), text.size());
    });
}

void es_cancel(es_session *session) {
    if (session != nullptr) session->session.cancel();
}

es_status es_reset(es_session *session) {
    return guarded([&] {
        wants(session != nullptr, "session");
        session->session.reset();
    });
}

es_status es_save_state(es_session *session, const char *path) {
    return guarded([&] {
        wants(session != nullptr, "session");
        wants(path != nullptr, "path");
        session->session.save_state(path);
    });
}

es_status es_load_state(es_session *session, const char *path) {
    return guarded([&] {
        wants(session != nullptr, "session");
        wants(path != nullptr, "path");
        session->session.load_state(path);
    });
}

es_status es_statistics(es_session *session, es_on_text on_json, void *user) {
    return guarded([&] {
        wants(session != nullptr, "session");
        wants(on_json != nullptr, "on_json");
        const std::string json = session->session.statistics();
        on_json(user, json.c_str(), json.size());
    });
}

es_status es_bench(es_session *session, int32_t prompt_tokens, int32_t new_tokens, int32_t repetitions,
                   es_on_text on_json, void *user) {
    return guarded([&] {
        wants(session != nullptr, "session");
        wants(on_json != nullptr, "on_json");
        session->session.begin();
        const std::string json = session->session.bench(prompt_tokens, new_tokens, repetitions);
        on_json(user, json.c_str(), json.size());
    });
}

es_status es_selftest(es_session *session, es_on_text on_json, void *user) {
    return guarded([&] {
        wants(session != nullptr, "session");
        wants(on_json != nullptr, "on_json");
        session->session.begin();
        const std::string json = session->session.selftest();
        on_json(user, json.c_str(), json.size());
    });
}

es_status es_probe(es_on_text on_json, void *user) {
    return guarded([&] {
        wants(on_json != nullptr, "on_json");
        const std::string json = edgestill::probe_json();
        on_json(user, json.c_str(), json.size());
    });
}
