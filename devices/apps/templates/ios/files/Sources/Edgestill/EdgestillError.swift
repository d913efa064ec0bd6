import CEdgestill

/// What failed: `status` is an `es_status` of edgestill.h, `message` its one line of text.
public struct EdgestillError: Error, CustomStringConvertible, Equatable, Sendable {
    public let status: UInt32
    public let message: String

    public var description: String { message }

    init(status: es_status, message: String) {
        self.status = UInt32(status.rawValue)
        self.message = message
    }

    static let closed = EdgestillError(status: ES_USAGE, message: "the session is closed")
}

/// Throw what a status stands for. On the thread of the call itself: the text is that thread's.
func check(_ status: es_status) throws {
    if status == ES_CANCELLED { throw CancellationError() }
    if status != ES_OK { throw EdgestillError(status: status, message: String(cString: es_error())) }
}
