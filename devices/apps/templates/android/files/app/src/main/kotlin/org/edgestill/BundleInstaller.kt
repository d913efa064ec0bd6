package org.edgestill

import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.security.MessageDigest

/** Where an app's bundle comes from; null: this file isn't carried by the app. */
fun interface BundleSource {
    fun open(path: String): InputStream?
}

/**
 * Copies a bundle out of the app into a folder, where its weights can be memory-mapped: whole or not at all.
 *
 * Files are hashed while they are copied. A copy that was killed goes on where it stopped. A bundle that is there
 * already costs nothing but reading the manifest.
 */
class BundleInstaller(private val source: BundleSource, private val parent: File) {
    /** Where the bundle of a manifest lies, or is going to. */
    fun folderOf(manifest: BundleManifest) = File(parent, NAME + manifest.digest.take(16))

    /** The manifest of the app's bundle. */
    fun manifest(): BundleManifest = BundleManifest.parse(String(manifestBytes()))

    /**
     * Copy what isn't there yet and return the bundle's folder; [progress] gets bytes done and in all.
     *
     * Throws an [EdgestillException]: too little room (status IO), or a file that isn't what was packed (CHANGED).
     */
    fun install(free: () -> Long = { parent.usableSpace }, progress: (Long, Long) -> Unit = { _, _ -> }): File {
        val bytes = manifestBytes()
        val manifest = BundleManifest.parse(String(bytes))
        val folder = folderOf(manifest)
        if (folder.isDirectory) return folder
        parent.mkdirs()
        val partial = File(parent, folder.name + PARTIAL)
        parent.listFiles { file -> file.name.startsWith(NAME) && file != partial }?.forEach { it.deleteRecursively() }
        val carried = manifest.files.filter { entry -> source.open(entry.path)?.also { it.close() } != null }
        if (carried.isEmpty()) throw EdgestillException(EdgestillException.NOT_FOUND, "the app carries no bundle")
        val total = carried.sumOf { it.sizeBytes }
        val there = carried.sumOf { minOf(size(partial, it), it.sizeBytes) }
        val room = free()
        if (total - there + SPARE_BYTES > room) {
            val lacking = (total - there + SPARE_BYTES - room) / 1_000_000 + 1
            throw EdgestillException(EdgestillException.IO, "too little room for the model: free another $lacking MB")
        }
        var done = 0L
        for (entry in carried) {
            copy(entry, File(partial, entry.path)) { progress(done + it, total) }
            done += entry.sizeBytes
        }
        write(File(partial, MANIFEST), bytes)
        if (!partial.renameTo(folder)) throw EdgestillException(EdgestillException.IO, "$folder: can't be renamed")
        return folder
    }

    private fun manifestBytes(): ByteArray {
        val stream = source.open(MANIFEST)
            ?: throw EdgestillException(EdgestillException.NOT_FOUND, "the app carries no bundle")
        return stream.use { it.readBytes() }
    }

    private fun size(folder: File, entry: BundleManifest.Entry): Long {
        val file = File(folder, entry.path)
        return if (file.isFile) file.length() else File(file.path + PARTIAL).length()
    }

    private fun copy(entry: BundleManifest.Entry, target: File, progress: (Long) -> Unit) {
        if (target.isFile && target.length() == entry.sizeBytes) return // renamed when its hash was right
        val partial = File(target.path + PARTIAL)
        partial.parentFile?.mkdirs()
        if (partial.length() > entry.sizeBytes) partial.delete()
        val digest = MessageDigest.getInstance("SHA-256")
        val piece = ByteArray(1 shl 20)
        var done = 0L
        if (partial.isFile) {
            partial.inputStream().use { stream ->
                while (true) {
                    val count = stream.read(piece)
                    if (count < 0) break
                    digest.update(piece, 0, count)
                    done += count
                }
            }
        }
        try {
            val stream = source.open(entry.path) ?: throw IOException("it is gone")
            stream.use {
                skip(it, done, piece)
                append(it, partial, digest, piece) { count -> progress(done + count) }
            }
        } catch (error: IOException) {
            throw EdgestillException(EdgestillException.IO, "${entry.path}: can't be copied (${error.message})")
        }
        val found = digest.digest().joinToString("") { "%02x".format(it) }
        if (partial.length() != entry.sizeBytes || found != entry.sha256) {
            partial.delete()
            val what = "${entry.path}: its bytes changed; install the app again"
            throw EdgestillException(EdgestillException.CHANGED, what)
        }
        if (!partial.renameTo(target)) throw EdgestillException(EdgestillException.IO, "$target: can't be renamed")
    }

    private fun skip(stream: InputStream, count: Long, piece: ByteArray) {
        var left = count
        while (left > 0) {
            val read = stream.read(piece, 0, minOf(left, piece.size.toLong()).toInt())
            if (read < 0) throw IOException("it is shorter than before")
            left -= read
        }
    }

    private fun append(
        stream: InputStream,
        target: File,
        digest: MessageDigest,
        piece: ByteArray,
        progress: (Long) -> Unit,
    ) {
        FileOutputStream(target, true).use { out ->
            var count = 0L
            while (true) {
                val read = stream.read(piece)
                if (read < 0) break
                out.write(piece, 0, read)
                digest.update(piece, 0, read)
                count += read
                progress(count)
            }
            out.fd.sync() // a rename that outlives its bytes would look like a whole file
        }
    }

    private fun write(target: File, bytes: ByteArray) = FileOutputStream(target).use { it.write(bytes); it.fd.sync() }

    private companion object {
        const val NAME = "bundle-"
        const val MANIFEST = "manifest.json"
        const val PARTIAL = ".partial"
        const val SPARE_BYTES = 16L shl 20
    }
}
