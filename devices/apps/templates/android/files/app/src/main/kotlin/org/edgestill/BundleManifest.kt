package org.edgestill

import org.json.JSONException
import org.json.JSONObject

/** What an app reads of a bundle's `manifest.json`; libedgestill checks its digest and hashes when it opens it. */
class BundleManifest private constructor(private val json: JSONObject) {
    class Artifact(val name: String, val format: String, val entry: String, val sizeBytes: Long)

    class Entry(val path: String, val sizeBytes: Long, val sha256: String)

    val name: String = json.getString("name")
    val digest: String = json.getString("digest")
    val contentSha256: String = json.getString("content_sha256")
    val contextLength: Int = json.getInt("context_length")

    /** Whether the model was trained on conversations: it has a chat template. */
    val chat: Boolean = !json.isNull("chat_template")

    val artifacts: List<Artifact> = objects("artifacts") {
        Artifact(it.getString("name"), it.getString("format"), it.getString("entry"), it.getLong("size_bytes"))
    }
    val files: List<Entry> = objects("files") {
        Entry(it.getString("path"), it.getLong("size_bytes"), it.getString("sha256"))
    }

    /** How the model is meant to answer. */
    val generation: Generation
    val endTokens: Set<Int>

    init {
        val given = json.getJSONObject("generation")
        val stops = given.optJSONArray("stop")
        val ends = given.optJSONArray("eos_token_ids")
        generation = Generation(
            maxNewTokens = given.getInt("max_new_tokens"),
            temperature = given.optDouble("temperature", 0.0).toFloat(),
            stop = List(stops?.length() ?: 0) { stops!!.getString(it) },
        )
        endTokens = List(ends?.length() ?: 0) { ends!!.getInt(it) }.toSet()
        val hex = Regex("[0-9a-f]{64}")
        if (!hex.matches(digest) || files.any { !hex.matches(it.sha256) || !staysInside(it.path) }) {
            throw EdgestillException(EdgestillException.CHANGED, "manifest.json: a damaged digest or path")
        }
    }

    private fun <T> objects(key: String, read: (JSONObject) -> T): List<T> {
        val array = json.getJSONArray(key)
        return List(array.length()) { read(array.getJSONObject(it)) }
    }

    companion object {
        private const val SCHEMA = "edgestill.bundle/1"

        /** Read a manifest's text. Throws an [EdgestillException] when it isn't one that this app knows. */
        fun parse(text: String): BundleManifest = try {
            val json = JSONObject(text)
            if (json.optString("schema") != SCHEMA) {
                throw EdgestillException(EdgestillException.VERSION, "manifest.json: its schema is not $SCHEMA")
            }
            BundleManifest(json)
        } catch (error: JSONException) {
            throw EdgestillException(EdgestillException.CHANGED, "manifest.json: ${error.message}")
        }

        private fun staysInside(path: String) =
            path.split('/').none { it.isEmpty() || it == "." || it == ".." } && '\\' !in path && '\u0000' !in path
    }
}
