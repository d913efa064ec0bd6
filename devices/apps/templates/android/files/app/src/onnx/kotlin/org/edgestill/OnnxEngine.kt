package org.edgestill

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.LongBuffer

/**
 * A bundle's ONNX artifact by onnxruntime: token ids in, token ids out, greedy.
 *
 * The graph's names are onnxruntime-genai's: `input_ids`, `attention_mask`, perhaps `position_ids`;
 * `past_key_values.N.key/value` and `present.N.key/value`; `logits`. Each step's keys and values are the next one's
 * past. It has no tokenizer: text becomes ids by [Edgestill.tokenize] of the bundle's GGUF artifact, or on a server.
 * One thread at a time; what fails throws an [EdgestillException].
 */
class OnnxEngine(model: File, threads: Int, private val contextLength: Int) : AutoCloseable {
    private val environment = OrtEnvironment.getEnvironment()
    private val session: OrtSession
    private val pastNames: List<String>
    private val hasPositions: Boolean

    init {
        session = ort {
            OrtSession.SessionOptions().use { options ->
                options.setIntraOpNumThreads(threads)
                options.setInterOpNumThreads(1)
                environment.createSession(model.path, options)
            }
        }
        val inputs = ort { session.inputInfo }
        pastNames = inputs.keys.filter { it.startsWith(PAST) }
        hasPositions = "position_ids" in inputs
        if (pastNames.isEmpty() || "input_ids" !in inputs) {
            session.close()
            throw EdgestillException(EdgestillException.CHANGED, "$model: not a decoder with a KV cache")
        }
    }

    /** Answer a prompt; [onToken] gets each token, and ends the answer by returning false. */
    fun generate(
        promptIds: IntArray,
        maxNewTokens: Int,
        endTokens: Set<Int>,
        onToken: (Int) -> Boolean = { true },
    ): IntArray {
        if (promptIds.isEmpty()) throw EdgestillException(EdgestillException.USAGE, "the prompt is empty")
        if (promptIds.size > contextLength) {
            throw EdgestillException(EdgestillException.CONTEXT, "the prompt is longer than the context")
        }
        val limit = minOf(maxNewTokens, contextLength - promptIds.size + 1)
        val answer = ArrayList<Int>()
        var ids = LongArray(promptIds.size) { promptIds[it].toLong() }
        var total = 0
        ort {
            var past = emptyPast()
            var held: AutoCloseable = AutoCloseable { past.values.forEach { it.close() } }
            try {
                while (answer.size < limit) {
                    val result = step(ids, total, past)
                    val old = held
                    held = result
                    old.close()
                    total += ids.size
                    past = pastNames.associateWith { result.get(presentOf(it)).get() as OnnxTensor }
                    val token = largest(result.get("logits").get() as OnnxTensor)
                    answer.add(token)
                    if (token in endTokens || !onToken(token)) break
                    ids = longArrayOf(token.toLong())
                }
            } finally {
                held.close()
            }
        }
        return answer.toIntArray()
    }

    /**
     * Answer the bundle's golden prompts; returns how many tokens were compared.
     *
     * Throws (MISMATCH) at the first token that differs. Kernels for another processor round differently, so this
     * is stricter than libedgestill's self-test, which sees the logits.
     */
    fun selftest(golden: List<GoldenPrompt>, artifact: String, endTokens: Set<Int>): Int {
        var compared = 0
        golden.forEachIndexed { number, prompt ->
            val where = "$artifact: golden prompt ${number + 1}"
            val expected = prompt.answers[artifact]
                ?: throw EdgestillException(EdgestillException.MISMATCH, "$where has no answer for it")
            val got = generate(prompt.promptIds, prompt.maxNewTokens, endTokens)
            if (!got.contentEquals(expected)) {
                val same = got.zip(expected).takeWhile { it.first == it.second }.size
                throw EdgestillException(EdgestillException.MISMATCH, "$where: the answer differs at token $same")
            }
            compared += got.size
        }
        return compared
    }

    override fun close() = session.close()

    private fun step(ids: LongArray, before: Int, past: Map<String, OnnxTensor>): OrtSession.Result {
        val own = LinkedHashMap<String, OnnxTensor>()
        try {
            val total = before + ids.size
            own["input_ids"] = longs(ids)
            own["attention_mask"] = longs(LongArray(total) { 1 })
            if (hasPositions) own["position_ids"] = longs(LongArray(ids.size) { (before + it).toLong() })
            return session.run(own + past)
        } finally {
            own.values.forEach { it.close() }
        }
    }

    private fun longs(values: LongArray) =
        OnnxTensor.createTensor(environment, LongBuffer.wrap(values), longArrayOf(1, values.size.toLong()))

    private fun emptyPast(): Map<String, OnnxTensor> = pastNames.associateWith { name ->
        val info = session.inputInfo.getValue(name).info as TensorInfo
        val shape = longArrayOf(1, info.shape[1], 0, info.shape[3])
        val none = ByteBuffer.allocateDirect(0).order(ByteOrder.nativeOrder())
        if (info.type == OnnxJavaType.FLOAT) {
            OnnxTensor.createTensor(environment, none.asFloatBuffer(), shape)
        } else {
            OnnxTensor.createTensor(environment, none, shape, info.type)
        }
    }

    /** The id of the largest logit of the last position; the first one of equals. */
    private fun largest(logits: OnnxTensor): Int {
        val shape = logits.info.shape
        val vocabulary = shape[2].toInt()
        val values: FloatBuffer = logits.floatBuffer
        val last = (shape[1].toInt() - 1) * vocabulary
        var best = 0
        for (id in 1 until vocabulary) if (values.get(last + id) > values.get(last + best)) best = id
        return best
    }

    private companion object {
        const val PAST = "past_key_values."

        fun presentOf(past: String) = "present." + past.removePrefix(PAST)

        fun <T> ort(block: () -> T): T = try {
            block()
        } catch (error: OrtException) {
            throw EdgestillException(EdgestillException.INTERNAL, error.message ?: "onnxruntime failed")
        }
    }
}
