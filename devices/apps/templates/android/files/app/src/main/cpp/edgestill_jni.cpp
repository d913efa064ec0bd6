// The C ABI for Java: org.edgestill.EdgestillNative. Texts cross as UTF-8 bytes, failures as EdgestillException.
#include <jni.h>

#include <new>
#include <string>
#include <vector>

#include "edgestill.h"

namespace {

constexpr size_t kUsualIds = 512;

jclass exception_class = nullptr;
jmethodID exception_new = nullptr;
jmethodID on_token = nullptr;

void raise(JNIEnv *env, es_status status, const char *text) {
    if (env->ExceptionCheck()) return;  // the listener's own, which ended the answer
    const std::string kept = text;      // JNI calls may change this thread's last error
    const auto size = static_cast<jsize>(kept.size());
    const jbyteArray bytes = env->NewByteArray(size);
    if (bytes == nullptr) return;  // OutOfMemoryError is pending
    env->SetByteArrayRegion(bytes, 0, size, reinterpret_cast<const jbyte *>(kept.data()));
    const auto error = env->NewObject(exception_class, exception_new, static_cast<jint>(status), bytes);
    if (error != nullptr) env->Throw(static_cast<jthrowable>(error));
}

// Whether all is well; else a Java exception is pending, and the caller returns.
bool good(JNIEnv *env, es_status status) {
    if (status != ES_OK) raise(env, status, es_error());
    return status == ES_OK && !env->ExceptionCheck();
}

// No C++ exception may pass into Java.
template <typename Work>
void guarded(JNIEnv *env, Work work) noexcept {
    try {
        work();
    } catch (const std::bad_alloc &) {
        if (!env->ExceptionCheck()) env->ThrowNew(env->FindClass("java/lang/OutOfMemoryError"), "edgestill");
    } catch (...) {
        if (!env->ExceptionCheck()) env->ThrowNew(env->FindClass("java/lang/IllegalStateException"), "edgestill");
    }
}

es_session *session_of(jlong handle) { return reinterpret_cast<es_session *>(static_cast<intptr_t>(handle)); }

std::string text_of(JNIEnv *env, jbyteArray bytes) {
    std::string text(static_cast<size_t>(env->GetArrayLength(bytes)), '\0');
    env->GetByteArrayRegion(bytes, 0, static_cast<jsize>(text.size()), reinterpret_cast<jbyte *>(&text[0]));
    return text;
}

jbyteArray bytes_of(JNIEnv *env, const char *text, size_t length) {
    const jbyteArray bytes = env->NewByteArray(static_cast<jsize>(length));
    if (bytes == nullptr) return nullptr;
    env->SetByteArrayRegion(bytes, 0, static_cast<jsize>(length), reinterpret_cast<const jbyte *>(text));
    return bytes;
}

struct Text {
    JNIEnv *env;
    jbyteArray bytes;
};

void keep(void *user, const char *text, size_t length) {
    auto *kept = static_cast<Text *>(user);
    kept->bytes = bytes_of(kept->env, text, length);
}

// A function that gives its text to es_on_text, as bytes.
template <typename Call>
jbyteArray text_from(JNIEnv *env, Call call) noexcept {
    Text kept{env, nullptr};
    guarded(env, [&] { good(env, call(&kept)); });
    return kept.bytes;
}

// A function that fills a buffer of ids, called again with the room that it asks for.
template <typename Call>
jintArray ids_from(JNIEnv *env, Call call) noexcept {
    jintArray array = nullptr;
    guarded(env, [&] {
        std::vector<int32_t> ids(kUsualIds);
        size_t count = 0;
        es_status status = call(ids.data(), ids.size(), &count);
        if (status == ES_ROOM) {
            ids.resize(count);
            status = call(ids.data(), ids.size(), &count);
        }
        if (!good(env, status)) return;
        array = env->NewIntArray(static_cast<jsize>(count));
        if (array != nullptr) env->SetIntArrayRegion(array, 0, static_cast<jsize>(count), ids.data());
    });
    return array;
}

struct Listener {
    JNIEnv *env;
    jobject object;
};

int give_token(void *user, int32_t token, const char *text, size_t length) {
    const auto *listener = static_cast<Listener *>(user);
    JNIEnv *env = listener->env;
    const jbyteArray bytes = bytes_of(env, text, length);
    if (bytes == nullptr) return 1;
    const jboolean more = env->CallBooleanMethod(listener->object, on_token, static_cast<jint>(token), bytes);
    env->DeleteLocalRef(bytes);  // a long answer has more tokens than there is room for local references
    return env->ExceptionCheck() || !more;
}

}  // namespace

#define EDGESTILL(type, name) \
    extern "C" JNIEXPORT type JNICALL Java_org_edgestill_EdgestillNative_##name

// Classes are looked up here, where the app's class loader is the current one.
extern "C" JNIEXPORT jint JNICALL JNI_OnLoad(JavaVM *vm, void *) {
    JNIEnv *env = nullptr;
    if (vm->GetEnv(reinterpret_cast<void **>(&env), JNI_VERSION_1_6) != JNI_OK) return JNI_ERR;
    const jclass exception = env->FindClass("org/edgestill/EdgestillException");
    if (exception == nullptr) return JNI_ERR;
    exception_class = static_cast<jclass>(env->NewGlobalRef(exception));
    exception_new = env->GetMethodID(exception, "<init>", "(I[B)V");
    const jclass listener = env->FindClass("org/edgestill/EdgestillNative$OnToken");
    if (listener == nullptr) return JNI_ERR;
    on_token = env->GetMethodID(listener, "onToken", "(I[B)Z");
    return exception_class != nullptr && exception_new != nullptr && on_token != nullptr ? JNI_VERSION_1_6 : JNI_ERR;
}

EDGESTILL(jint, abiVersion)(JNIEnv *, jclass) { return static_cast<jint>(es_abi_version()); }

EDGESTILL(jlong, open)(JNIEnv *env, jclass, jbyteArray path, jbyteArray artifact, jint threads, jint context_length,
                       jboolean verify, jbyteArray kv_precision) {
    es_session *session = nullptr;
    guarded(env, [&] {
        const std::string where = text_of(env, path);
        const std::string name = artifact == nullptr ? "" : text_of(env, artifact);
        const std::string precision = kv_precision == nullptr ? "" : text_of(env, kv_precision);
        es_options options{};
        options.size = sizeof options;
        options.threads = threads;
        options.context_length = context_length;
        options.no_verify = verify ? 0 : 1;
        options.kv_precision = kv_precision == nullptr ? nullptr : precision.c_str();
        good(env, es_open(where.c_str(), artifact == nullptr ? nullptr : name.c_str(), &options, &session));
    });
    return static_cast<jlong>(reinterpret_cast<intptr_t>(session));
}

EDGESTILL(void, close)(JNIEnv *, jclass, jlong session) { es_close(session_of(session)); }

EDGESTILL(jintArray, tokenize)(JNIEnv *env, jclass, jlong session, jbyteArray bytes, jboolean add_special) {
    return ids_from(env, [&](int32_t *ids, size_t room, size_t *count) {
        const std::string text = text_of(env, bytes);
        return es_tokenize(session_of(session), text.data(), text.size(), add_special, ids, room, count);
    });
}

EDGESTILL(jbyteArray, applyTemplate)(JNIEnv *env, jclass, jlong session, jbyteArray bytes) {
    return text_from(env, [&](Text *kept) {
        return es_apply_template(session_of(session), text_of(env, bytes).c_str(), keep, kept);
    });
}

EDGESTILL(void, generate)(JNIEnv *env, jclass, jlong session, jintArray ids, jint max_new_tokens, jboolean ignore_eos,
                          jfloat temperature, jint top_k, jfloat top_p, jfloat min_p, jlong seed, jobjectArray stop,
                          jobject object) {
    guarded(env, [&] {
        std::vector<int32_t> prompt(static_cast<size_t>(env->GetArrayLength(ids)));
        env->GetIntArrayRegion(ids, 0, static_cast<jsize>(prompt.size()), prompt.data());
        std::vector<std::string> texts;
        for (jsize at = 0; at < env->GetArrayLength(stop); ++at) {
            const auto one = static_cast<jbyteArray>(env->GetObjectArrayElement(stop, at));
            texts.push_back(text_of(env, one));
            env->DeleteLocalRef(one);
        }
        std::vector<const char *> stops;
        for (const std::string &text : texts) stops.push_back(text.c_str());
        es_generation generation{};
        generation.size = sizeof generation;
        generation.max_new_tokens = max_new_tokens;
        generation.ignore_eos = ignore_eos;
        generation.temperature = temperature;
        generation.top_k = top_k;
        generation.top_p = top_p;
        generation.min_p = min_p;
        generation.seed = static_cast<uint64_t>(seed);
        generation.stop = stops.data();
        generation.stops = stops.size();
        Listener listener{env, object};
        good(env, es_generate(session_of(session), prompt.data(), prompt.size(), &generation, give_token, &listener));
    });
}

EDGESTILL(jintArray, answer)(JNIEnv *env, jclass, jlong session) {
    return ids_from(env, [&](int32_t *ids, size_t room, size_t *count) {
        return es_answer(session_of(session), ids, room, count);
    });
}

EDGESTILL(void, cancel)(JNIEnv *, jclass, jlong session) { es_cancel(session_of(session)); }

EDGESTILL(void, reset)(JNIEnv *env, jclass, jlong session) { good(env, es_reset(session_of(session))); }

EDGESTILL(void, saveState)(JNIEnv *env, jclass, jlong session, jbyteArray path) {
    guarded(env, [&] { good(env, es_save_state(session_of(session), text_of(env, path).c_str())); });
}

EDGESTILL(void, loadState)(JNIEnv *env, jclass, jlong session, jbyteArray path) {
    guarded(env, [&] { good(env, es_load_state(session_of(session), text_of(env, path).c_str())); });
}

EDGESTILL(jbyteArray, statistics)(JNIEnv *env, jclass, jlong session) {
    return text_from(env, [&](Text *kept) { return es_statistics(session_of(session), keep, kept); });
}

EDGESTILL(jbyteArray, bench)(JNIEnv *env, jclass, jlong session, jint prompt_tokens, jint new_tokens,
                             jint repetitions) {
    return text_from(env, [&](Text *kept) {
        return es_bench(session_of(session), prompt_tokens, new_tokens, repetitions, keep, kept);
    });
}

EDGESTILL(jbyteArray, selftest)(JNIEnv *env, jclass, jlong session) {
    return text_from(env, [&](Text *kept) { return es_selftest(session_of(session), keep, kept); });
}
