import Foundation

/// How many threads to compute with: those of the fast cores, as a slow one makes all others wait for it.
public enum Cores {
    private static let bytesAThread = 4 << 20  // below that a thread costs more than it computes

    /// The performance cores (half of all where the system doesn't tell).
    public static var fast: Int {
        var count: Int32 = 0
        var size = MemoryLayout<Int32>.size
        if sysctlbyname("hw.perflevel0.physicalcpu", &count, &size, nil, 0) == 0, count > 0 { return Int(count) }
        return max(1, ProcessInfo.processInfo.activeProcessorCount / 2)
    }

    /// Threads for a model of this size.
    public static func threads(modelBytes: Int, fast: Int = Cores.fast) -> Int {
        min(modelBytes / bytesAThread + 1, fast)
    }
}
