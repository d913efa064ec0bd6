package org.edgestill

import java.util.concurrent.TimeUnit
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock
import org.json.JSONArray
import org.json.JSONObject

/** One turn of a conversation; [role] is `system`, `user` or `assistant`. */
data class Message(val role: String, val content: String)

/** How an answer is made; zeros of the numbers are "all", a [temperature] of 0 is greedy. */
data class Generation(
    val maxNewTokens: Int = 256,
    val temperature: Float = 0f,
    val topK: Int = 0,
    val topP: Float = 0f,
    val minP: Float = 0f,
    val seed: Long = 0,
    val stop: List<String> = emptyList(),
    val ignoreEos: Boolean = false,
)

/** A whole answer: [finishReason] is `eos`, `length`, `stop` or `cancelled`. */
class Answer(val tokens: IntArray, val text: String, val finishReason: String)

/** Gets each token and the text that it completes (perhaps none); false ends the answer. */
fun interface TokenListener {
    fun onToken(token: Int, text: String): Boolean
}

/**
 * A language model out of a bundle's GGUF artifact. Plain JVM: no Android class is used here.
 *
 * Calls block, and wait for each other: use one thread of your own, never the main one. [cancel] and [close] may be
 * called from any thread at any time. What fails throws an [EdgestillException].
 */
class Edgestill private constructor(private var handle: Long) : AutoCloseable {
    private val work = ReentrantLock()
    private val guard = Any() // of handle and listener: what cancel() touches while work is held by another thread
    private var listener: TokenListener? = null

    @Volatile private var cancelled = false

    @Volatile private var closed = false

    /** The token ids of a text; [addSpecial]: with what the model expects around a text (BOS). */
    fun tokenize(text: String, addSpecial: Boolean = true): IntArray =
        use { EdgestillNative.tokenize(it, text.toByteArray(), addSpecial) }

    /** A conversation as the model was trained on it, ready for its answer; its BOS is in it. */
    fun applyTemplate(messages: List<Message>): String {
        val array = JSONArray()
        for (message in messages) array.put(JSONObject().put("role", message.role).put("content", message.content))
        return use { String(EdgestillNative.applyTemplate(it, array.toString().toByteArray())) }
    }

    /**
     * Answer a prompt of token ids; a cancelled answer is returned as far as it came.
     *
     * What [listener] throws ends the answer and is thrown here.
     */
    fun generate(
        ids: IntArray,
        generation: Generation = Generation(),
        listener: TokenListener = TokenListener { _, _ -> true },
    ): Answer {
        val stop = generation.stop.map { it.toByteArray() }
        if (stop.any { 0 in it }) throw EdgestillException(EdgestillException.USAGE, "a stop text has a NUL in it")
        return use { session ->
            val text = StringBuilder()
            synchronized(guard) {
                this.listener = listener
                cancelled = false
            }
            var reason: String? = null
            try {
                EdgestillNative.generate(
                    session,
                    ids,
                    generation.maxNewTokens,
                    generation.ignoreEos,
                    generation.temperature,
                    generation.topK,
                    generation.topP,
                    generation.minP,
                    generation.seed,
                    stop.toTypedArray(),
                ) { token, bytes ->
                    val piece = String(bytes)
                    text.append(piece)
                    listener.onToken(token, piece) && !cancelled
                }
            } catch (error: EdgestillException) {
                if (error.status != EdgestillException.CANCELLED) throw error
                reason = "cancelled"
            } finally {
                synchronized(guard) { this.listener = null }
            }
            val finish = reason ?: JSONObject(String(EdgestillNative.statistics(session))).getString("finish_reason")
            Answer(EdgestillNative.answer(session), text.toString(), finish)
        }
    }

    /** End the answer (or bench, or self-test) under way; with [only], the answer that this listener gets, no other. */
    fun cancel(only: TokenListener? = null) {
        synchronized(guard) {
            if (handle == 0L || (only != null && only !== listener)) return
            cancelled = true
            EdgestillNative.cancel(handle)
        }
    }

    /** Forget the sequence in the KV cache. */
    fun reset() = use { EdgestillNative.reset(it) }

    /** Write the sequence in the KV cache to a file, whole or not at all. */
    fun saveState(path: String) = use { EdgestillNative.saveState(it, path.toByteArray()) }

    /** Read back what [saveState] wrote: for the same model and version. */
    fun loadState(path: String) = use { EdgestillNative.loadState(it, path.toByteArray()) }

    /** JSON of the model and the last answer's times. */
    fun statistics(): String = use { String(EdgestillNative.statistics(it)) }

    /** Measure; JSON of all samples. */
    fun bench(promptTokens: Int = 128, newTokens: Int = 64, repetitions: Int = 5): String =
        use { String(EdgestillNative.bench(it, promptTokens, newTokens, repetitions)) }

    /** Answer the bundle's golden prompts; another answer throws (MISMATCH). JSON of what was compared. */
    fun selftest(): String = use { String(EdgestillNative.selftest(it)) }

    /** End what is under way and free the model. From a listener: it is freed when the answer has ended. */
    override fun close() {
        closed = true
        cancel()
        if (work.isHeldByCurrentThread) return
        // What begins anew within one call (a bench's answers) has to be cancelled anew.
        while (!work.tryLock(CANCEL_AGAIN_MS, TimeUnit.MILLISECONDS)) cancel()
        try {
            free()
        } finally {
            work.unlock()
        }
    }

    private fun free() {
        val last = synchronized(guard) { handle.also { handle = 0 } }
        if (last != 0L) EdgestillNative.close(last)
    }

    private fun <T> use(block: (Long) -> T): T = work.withLock {
        check(work.holdCount == 1) { "a listener can't use the session whose token it gets" }
        if (closed) throw EdgestillException(EdgestillException.USAGE, "the session is closed")
        try {
            block(handle)
        } finally {
            if (closed) free()
        }
    }

    companion object {
        /** The version of edgestill.h that this class was written for. */
        const val ABI_VERSION = 2
        private const val CANCEL_AGAIN_MS = 20L

        /**
         * Open a bundle's artifact (null: the one that it ships, else its first GGUF one).
         *
         * Zeros are the library's defaults. The files' hashes are checked first, unless [verify] is false.
         */
        @JvmStatic
        @JvmOverloads
        fun open(
            path: String,
            artifact: String? = null,
            threads: Int = 0,
            contextLength: Int = 0,
            verify: Boolean = true,
            kvPrecision: String? = null,
        ): Edgestill {
            val version = EdgestillNative.abiVersion()
            if (version != ABI_VERSION) {
                throw EdgestillException(EdgestillException.VERSION, "libedgestill has ABI $version, not $ABI_VERSION")
            }
            return Edgestill(
                EdgestillNative.open(
                    path.toByteArray(),
                    artifact?.toByteArray(),
                    threads,
                    contextLength,
                    verify,
                    kvPrecision?.toByteArray(),
                ),
            )
        }
    }
}
