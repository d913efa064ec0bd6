package org.edgestill

import java.io.File
import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

/** One line of `golden.jsonl`: what a person would have typed, and what each artifact answered where it was packed. */
class GoldenPrompt(
    val text: String,
    val promptIds: IntArray,
    val maxNewTokens: Int,
    val answers: Map<String, IntArray>,
)

/** The golden prompts of a bundle's folder. Throws an [EdgestillException] that names the line. */
fun readGolden(bundle: File): List<GoldenPrompt> {
    val lines = File(bundle, "golden.jsonl").readText().trimEnd('\n').split('\n')
    return lines.mapIndexed { number, line ->
        try {
            val row = JSONObject(line)
            val answers = row.getJSONObject("token_ids")
            GoldenPrompt(
                typed(row.get("prompt")),
                ids(row.getJSONArray("prompt_ids")),
                row.getInt("max_new_tokens"),
                answers.keys().asSequence().map { it.toString() }.associateWith { ids(answers.getJSONArray(it)) },
            )
        } catch (error: JSONException) {
            throw EdgestillException(EdgestillException.CHANGED, "golden.jsonl:${number + 1}: ${error.message}")
        }
    }
}

private fun typed(prompt: Any): String {
    if (prompt !is JSONArray) return prompt.toString()
    val messages = List(prompt.length()) { prompt.getJSONObject(it) }
    return messages.lastOrNull { it.optString("role") == "user" }?.optString("content").orEmpty()
}

private fun ids(array: JSONArray) = IntArray(array.length()) { array.getInt(it) }
