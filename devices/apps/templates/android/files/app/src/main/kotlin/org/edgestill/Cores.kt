package org.edgestill

import java.io.File

/** How many threads to compute with: those of the fast cores, as a slow one makes all others wait for it. */
object Cores {
    private const val BYTES_A_THREAD = 4L shl 20 // below that a thread costs more than it computes
    private val NAME = Regex("cpu[0-9]+")

    /** The cores that aren't of the slowest kind; all of them where there is one kind, half where nobody tells. */
    fun fast(root: File = File("/sys/devices/system/cpu"), all: Int = Runtime.getRuntime().availableProcessors()): Int {
        val folders = root.listFiles { file -> NAME.matches(file.name) }.orEmpty()
        val speeds = folders.mapNotNull { speedOf(File(it, "cpufreq/cpuinfo_max_freq")) }
        if (speeds.isEmpty()) return maxOf(1, all / 2)
        val fast = speeds.count { it > speeds.min() }
        return minOf(if (fast == 0) speeds.size else fast, maxOf(1, all))
    }

    /** Threads for a model of this size. */
    fun threads(modelBytes: Long, fast: Int = fast()): Int =
        (modelBytes / BYTES_A_THREAD + 1).coerceAtMost(fast.toLong()).toInt()

    private fun speedOf(file: File): Long? = try {
        file.readText().trim().toLongOrNull()
    } catch (_: java.io.IOException) {
        null // an offline core, or a system that doesn't show it
    }
}
