import CEdgestill
import Foundation

/// A language model out of a bundle's GGUF artifact.
///
/// All work is done on a queue of its own, one thing after another; `cancel` and `close` may be called from any thread
/// at any time. What fails throws an `EdgestillError`.
public final class Edgestill: @unchecked Sendable {
    /// Between two tokens, on the model's queue: may wait (a hot device), and ends the answer by returning false.
    public typealias Pace = @Sendable () -> Bool

    private let queue = DispatchQueue(label: "org.edgestill.session", qos: .userInitiated)
    private let lock = NSLock()  // of what follows: cancel() touches it while the queue is busy
    private var session: OpaquePointer?
    private var closed = false
    private var answering: Answering?

    private init(_ session: OpaquePointer) {
        self.session = session
    }

    deinit {
        es_close(session)  // NULL is fine; nobody can be using it any more
    }

    /// Open a bundle's artifact (nil: the one that it ships, else its first GGUF one); zeros: the library's defaults.
    ///
    /// The files' hashes are checked first, unless `verify` is false.
    public static func open(
        _ bundle: URL, artifact: String? = nil, threads: Int32 = 0, contextLength: Int32 = 0, verify: Bool = true
    ) async throws -> Edgestill {
        try await withCheckedThrowingContinuation { continuation in
            DispatchQueue.global(qos: .userInitiated).async {
                continuation.resume(
                    with: Result { try opened(bundle, artifact, threads, contextLength, verify) })
            }
        }
    }

    private static func opened(
        _ bundle: URL, _ artifact: String?, _ threads: Int32, _ contextLength: Int32, _ verify: Bool
    ) throws -> Edgestill {
        guard es_abi_version() == UInt32(ES_ABI_VERSION) else {
            throw EdgestillError(status: ES_VERSION, message: "libedgestill has another ABI than this app")
        }
        var options = es_options()
        options.size = MemoryLayout<es_options>.size
        options.threads = threads
        options.context_length = contextLength
        options.no_verify = verify ? 0 : 1
        var session: OpaquePointer?
        if let artifact {
            try check(es_open(bundle.path, artifact, &options, &session))
        } else {
            try check(es_open(bundle.path, nil, &options, &session))
        }
        guard let session else { throw EdgestillError.closed }
        return Edgestill(session)
    }

    /// The token ids of a text; `addSpecial`: with what the model expects around a text (BOS).
    public func tokenize(_ text: String, addSpecial: Bool = true) async throws -> [Int32] {
        try await run { session in
            let bytes = Array(text.utf8CString)  // one more than the text has: its end
            return try filled { ids, room, count in
                es_tokenize(session, bytes, bytes.count - 1, addSpecial ? 1 : 0, ids, room, count)
            }
        }
    }

    /// A conversation as the model was trained on it, ready for its answer; its BOS is in it.
    public func applyTemplate(_ messages: [Message]) async throws -> String {
        let json = String(decoding: try JSONEncoder().encode(messages), as: UTF8.self)
        return try await run { session in
            try collected { es_apply_template(session, json, $0, $1) }
        }
    }

    /// Answer a prompt of token ids, token by token; ending the loop, or its task, ends the computation.
    public func tokens(
        _ ids: [Int32], _ generation: Generation = Generation(), pace: @escaping Pace = { true }
    ) -> AsyncThrowingStream<Token, Error> {
        AsyncThrowingStream { continuation in
            let answering = Answering(continuation, pace)
            continuation.onTermination = { [weak self] reason in
                if case .cancelled = reason { self?.cancel(answering) }
            }
            queue.async {
                do {
                    try self.generate(ids, generation, answering)
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
        }
    }

    /// End the answer, bench or self-test under way.
    public func cancel() {
        lock.withLock {
            answering?.end()
            if let session { es_cancel(session) }
        }
    }

    private func cancel(_ only: Answering) {
        lock.withLock {
            only.end()
            if let session, answering === only { es_cancel(session) }
        }
    }

    /// Forget the sequence in the KV cache.
    public func reset() async throws {
        try await run { try check(es_reset($0)) }
    }

    /// JSON of the model and the last answer's times.
    public func statistics() async throws -> String {
        try await run { session in try collected { es_statistics(session, $0, $1) } }
    }

    /// Measure; JSON of all samples.
    public func bench(promptTokens: Int32 = 128, newTokens: Int32 = 64, repetitions: Int32 = 5) async throws -> String {
        try await run { session in try collected { es_bench(session, promptTokens, newTokens, repetitions, $0, $1) } }
    }

    /// Answer the bundle's golden prompts; another answer throws. JSON of what was compared.
    public func selftest() async throws -> String {
        try await run { session in try collected { es_selftest(session, $0, $1) } }
    }

    /// End what is under way and free the model; what is called later throws.
    public func close() {
        lock.withLock { closed = true }
        cancel()
        queue.async {
            let last = self.lock.withLock { () -> OpaquePointer? in
                let last = self.session
                self.session = nil
                return last
            }
            es_close(last)
        }
    }

    private func run<Value: Sendable>(
        _ work: @escaping @Sendable (OpaquePointer) throws -> Value
    ) async throws -> Value {
        try await withCheckedThrowingContinuation { continuation in
            queue.async { continuation.resume(with: Result { try work(try self.opened()) }) }
        }
    }

    private func opened() throws -> OpaquePointer {
        try lock.withLock { () throws -> OpaquePointer in
            guard let session, !closed else { throw EdgestillError.closed }
            return session
        }
    }

    /// On the queue: one answer.
    private func generate(_ ids: [Int32], _ generation: Generation, _ answering: Answering) throws {
        let session = try opened()
        lock.withLock { self.answering = answering }
        defer { lock.withLock { self.answering = nil } }
        // Copies that stay where they are until the call returns.
        let stops = generation.stop.map { strdup($0) }
        defer { stops.forEach { free($0) } }
        let stop: [UnsafePointer<CChar>?] = stops.map { UnsafePointer($0) }
        var asked = es_generation()
        asked.size = MemoryLayout<es_generation>.size
        asked.max_new_tokens = generation.maxNewTokens
        asked.ignore_eos = generation.ignoreEOS ? 1 : 0
        asked.temperature = generation.temperature
        asked.top_k = generation.topK
        asked.top_p = generation.topP
        asked.min_p = generation.minP
        asked.seed = generation.seed
        let status = stop.withUnsafeBufferPointer { pointers in
            asked.stop = pointers.baseAddress
            asked.stops = pointers.count
            let user = Unmanaged.passUnretained(answering).toOpaque()
            return es_generate(session, ids, ids.count, &asked, { user, token, text, length in
                let answering = Unmanaged<Answering>.fromOpaque(user!).takeUnretainedValue()
                return answering.take(token, string(text, length)) ? 0 : 1
            }, user)
        }
        // Ended from this side: the stream is over, and that is no failure.
        if status != ES_CANCELLED { try check(status) }
    }
}

/// One answer under way: where its tokens go, and whether it goes on.
private final class Answering: @unchecked Sendable {
    private let continuation: AsyncThrowingStream<Token, Error>.Continuation
    private let pace: Edgestill.Pace
    private let lock = NSLock()
    private var ended = false

    init(_ continuation: AsyncThrowingStream<Token, Error>.Continuation, _ pace: @escaping Edgestill.Pace) {
        self.continuation = continuation
        self.pace = pace
    }

    func end() {
        lock.withLock { ended = true }
    }

    func take(_ token: Int32, _ text: String) -> Bool {
        if case .terminated = continuation.yield(Token(id: token, text: text)) { return false }
        return pace() && !lock.withLock { ended }
    }
}

private func string(_ text: UnsafePointer<CChar>?, _ length: Int) -> String {
    String(decoding: UnsafeRawBufferPointer(start: text, count: length), as: UTF8.self)
}

private final class Kept {
    var text = ""
}

/// What a function gives to its `es_on_text`.
private func collected(_ call: (es_on_text?, UnsafeMutableRawPointer?) -> es_status) throws -> String {
    let kept = Kept()
    let status = call({ user, text, length in
        Unmanaged<Kept>.fromOpaque(user!).takeUnretainedValue().text = string(text, length)
    }, Unmanaged.passUnretained(kept).toOpaque())
    try check(status)
    return kept.text
}

/// The ids of a function that fills a buffer, called again with the room that it asks for.
private func filled(
    _ call: (UnsafeMutablePointer<Int32>?, Int, UnsafeMutablePointer<Int>) -> es_status
) throws -> [Int32] {
    var ids = [Int32](repeating: 0, count: 512)
    var count = 0
    var status = call(&ids, ids.count, &count)
    if status == ES_ROOM {
        ids = [Int32](repeating: 0, count: count)
        status = call(&ids, ids.count, &count)
    }
    try check(status)
    return Array(ids.prefix(count))
}
