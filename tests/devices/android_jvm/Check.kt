// What test_android_app.py asserts about, done by the app's own classes on a desktop JVM. Prints one JSON document.
import java.io.ByteArrayInputStream
import java.io.File
import java.io.FileInputStream
import java.io.IOException
import java.io.InputStream
import java.util.concurrent.CountDownLatch
import java.util.concurrent.Executors
import kotlin.concurrent.thread
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import org.edgestill.BundleInstaller
import org.edgestill.BundleSource
import org.edgestill.Cores
import org.edgestill.Edgestill
import org.edgestill.EdgestillException
import org.edgestill.Generation
import org.edgestill.Message
import org.edgestill.TokenListener
import org.edgestill.readGolden
import org.edgestill.tokens
import org.json.JSONArray
import org.json.JSONObject

private val endless = Generation(maxNewTokens = 200, ignoreEos = true)

fun main(arguments: Array<String>) {
    val bundle = File(arguments[0])
    val scratch = File(arguments[1])
    val asked = JSONObject(File(arguments[2]).readText())
    val out = JSONObject()
    Edgestill.open(bundle.path, threads = 1).use { session ->
        out.put("selftest", JSONObject(session.selftest()))
        out.put("texts", answers(session, asked.getJSONArray("texts")))
        out.put("template", session.applyTemplate(listOf(Message("user", asked.getString("message")))))
        out.put("endings", JSONObject().put("cancel", cancelled(session)).put("listener", ended(session)))
        out.put("thrown", thrown { session.generate(first(session), endless) { _, _ -> error("mine") } })
        out.put("nested", thrown { session.generate(first(session)) { _, _ -> session.reset(); true } })
        out.put("empty_prompt", thrown { session.generate(IntArray(0)) })
        out.put("stopped_by", stopped(session))
        out.put("state", state(session, File(scratch, "zustand-\uD83D\uDE00.state")))
        out.put("flow", flow(session))
        out.put("bench", JSONObject(session.bench(8, 4, 2)))
        out.put("statistics", JSONObject(session.statistics()))
    }
    out.put("wrong", thrown { Edgestill.open(File(scratch, "no-\u6771").path) })
    out.put("no_artifact", thrown { Edgestill.open(bundle.path, "gguf-none") })
    out.put("close", closed(bundle))
    out.put("install", installed(bundle, scratch))
    out.put("cores", cores(File(scratch, "cpu")))
    out.put("golden", JSONArray(readGolden(bundle).map { it.text }))
    println(out)
}

private fun first(session: Edgestill) = session.tokenize("Once upon a time")

private fun thrown(block: () -> Any?): String = try {
    block()
    "nothing"
} catch (error: EdgestillException) {
    "${error.status}: ${error.message}"
} catch (error: IllegalStateException) {
    "IllegalStateException: ${error.message}"
}

private fun answers(session: Edgestill, texts: JSONArray) = JSONArray(
    List(texts.length()) {
        val ids = session.tokenize(texts.getString(it))
        session.reset()
        val pieces = StringBuilder()
        val answer = session.generate(ids, Generation(maxNewTokens = 24)) { _, text -> pieces.append(text); true }
        check(pieces.toString() == answer.text)
        JSONObject().put("ids", JSONArray(ids.toList())).put("answer", JSONArray(answer.tokens.toList()))
            .put("text", answer.text).put("finish", answer.finishReason)
    },
)

/** Another thread cancels at the third token; the session answers as before afterwards. */
private fun cancelled(session: Edgestill): JSONObject {
    val third = CountDownLatch(1)
    val gone = CountDownLatch(1)
    val other = thread { third.await(); session.cancel(); gone.countDown() }
    var count = 0
    val answer = session.generate(first(session), endless) { _, _ ->
        if (++count == 3) { third.countDown(); gone.await() }
        true
    }
    other.join()
    val after = session.generate(first(session), Generation(maxNewTokens = 4))
    return JSONObject().put("finish", answer.finishReason).put("tokens", answer.tokens.size)
        .put("after", after.tokens.size)
}

private fun ended(session: Edgestill): JSONObject {
    val answer = session.generate(first(session), endless) { _, _ -> false }
    return JSONObject().put("finish", answer.finishReason).put("tokens", answer.tokens.size)
}

private fun stopped(session: Edgestill): String {
    val whole = session.generate(first(session), Generation(maxNewTokens = 24)).text
    val stop = whole.substring(whole.length / 2, whole.length / 2 + 2)
    val answer = session.generate(first(session), Generation(maxNewTokens = 24, stop = listOf(stop)))
    return "${answer.finishReason} ${answer.text == whole.substringBefore(stop)}"
}

private fun state(session: Edgestill, file: File): Boolean {
    session.generate(first(session), Generation(maxNewTokens = 4))
    session.saveState(file.path)
    session.reset()
    session.loadState(file.path)
    session.generate(first(session), Generation(maxNewTokens = 4))
    return file.isFile && JSONObject(session.statistics()).getInt("reused_tokens") > 0
}

private fun flow(session: Edgestill): JSONObject = runBlocking {
    val worker = Executors.newSingleThreadExecutor()
    val dispatcher = worker.asCoroutineDispatcher()
    val whole = session.tokens(first(session), Generation(maxNewTokens = 24), dispatcher).toList()
    val some = session.tokens(first(session), endless, dispatcher) { Thread.sleep(2); true }.take(3).toList()
    val failed = thrown { runBlocking { session.tokens(IntArray(0), endless, dispatcher).toList() } }
    worker.shutdown()
    JSONObject().put("tokens", JSONArray(whole.map { it.id })).put("some", some.size).put("failed", failed)
        .put("text", whole.joinToString("") { it.text })
}

/** Closed while it answers: by another thread, and by its own listener; and then used again. */
private fun closed(bundle: File): JSONObject {
    val session = Edgestill.open(bundle.path, threads = 1)
    val started = CountDownLatch(1)
    val closing = thread { started.await(); session.close(); session.close(); session.cancel() }
    val answer = session.generate(first(session), endless) { _, _ -> started.countDown(); Thread.sleep(5); true }
    closing.join()
    val measured = Edgestill.open(bundle.path, threads = 1)
    val stopping = thread { Thread.sleep(30); measured.close() }
    val bench = thrown { measured.bench(100, 100, 1000) }
    stopping.join()
    val own = Edgestill.open(bundle.path, threads = 1)
    val last = own.generate(first(own), endless) { _, _ -> own.close(); true }
    return JSONObject().put("finish", answer.finishReason).put("later", thrown { session.tokenize("x") })
        .put("bench", bench).put("own", last.finishReason).put("own_later", thrown { own.reset() })
}

/** Killed in the middle, gone on with, one byte wrong, too little room; then whole, and opened. */
private fun installed(bundle: File, scratch: File): JSONObject {
    val parent = File(scratch, "files")
    val from = BundleSource { path -> File(bundle, path).takeIf { it.isFile }?.let { FileInputStream(it) } }
    val installer = BundleInstaller(from, parent)
    val manifest = installer.manifest()
    val model = manifest.files.filter { it.path.endsWith(".gguf") }.maxBy { it.sizeBytes }
    var read = 0L
    val breaks = BundleSource { path ->
        from.open(path)?.let { if (path == model.path) Breaking(it, model.sizeBytes / 2) else it }
    }
    val broken = thrown { BundleInstaller(breaks, parent).install() }
    val wrong = BundleSource { path ->
        if (path != model.path) from.open(path)
        else ByteArrayInputStream(File(bundle, path).readBytes().also { it[it.size - 1]++ })
    }
    val folder = installer.folderOf(manifest)
    val half = folder.exists()
    val changed = thrown { BundleInstaller(wrong, File(scratch, "others")).install() }
    val full = thrown { installer.install(free = { 1000 }) }
    val counted = BundleSource { path -> from.open(path) }
    var last = 0L
    val done = BundleInstaller(counted, parent).install { now, all -> read = all; last = maxOf(last, now) }
    val again = BundleInstaller(counted, parent).install { _, _ -> error("copied twice") }
    val opened = Edgestill.open(done.path, threads = 1).use { JSONObject(it.selftest()).getInt("prompts") }
    return JSONObject().put("broken", broken).put("half", half).put("changed", changed).put("full", full)
        .put("whole", last == read && done == folder && again == folder).put("prompts", opened)
        .put("left", JSONArray(parent.list().orEmpty().sorted()))
}

private class Breaking(private val whole: InputStream, private var left: Long) : InputStream() {
    override fun read(): Int = throw IOException("unused")

    override fun read(bytes: ByteArray, offset: Int, length: Int): Int {
        if (left <= 0) throw IOException("killed")
        return whole.read(bytes, offset, minOf(length.toLong(), left).toInt()).also { left -= it }
    }
}

private fun cores(root: File): JSONObject {
    fun machine(name: String, vararg speeds: Int): File {
        val folder = File(root, name)
        speeds.forEachIndexed { core, speed ->
            val file = File(folder, "cpu$core/cpufreq/cpuinfo_max_freq")
            file.parentFile.mkdirs()
            file.writeText("$speed\n")
        }
        File(folder, "cpufreq").mkdirs()
        return folder
    }
    val mixed = machine("mixed", 1_800_000, 1_800_000, 1_800_000, 1_800_000, 2_400_000, 2_400_000, 2_400_000, 3_000_000)
    return JSONObject().put("mixed", Cores.fast(mixed, 8)).put("one_kind", Cores.fast(machine("same", 5, 5, 5, 5), 4))
        .put("nobody_tells", Cores.fast(File(root, "none"), 8)).put("small_model", Cores.threads(300_000, 4))
        .put("large_model", Cores.threads(300_000_000, 4))
}
