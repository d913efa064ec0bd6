/// How an answer is made; zeros of the numbers are "all", a `temperature` of 0 is greedy.
public struct Generation: Sendable {
    public var maxNewTokens: Int32 = 256
    public var temperature: Float = 0
    public var topK: Int32 = 0
    public var topP: Float = 0
    public var minP: Float = 0
    public var seed: UInt64 = 0
    public var stop: [String] = []
    public var ignoreEOS = false

    public init() {}
}

/// One token of an answer and the text that it completes (perhaps none).
public struct Token: Equatable, Sendable {
    public let id: Int32
    public let text: String
}

/// One turn of a conversation; `role` is `system`, `user` or `assistant`.
public struct Message: Codable, Equatable, Sendable {
    public let role: String
    public let content: String

    public init(role: String, content: String) {
        self.role = role
        self.content = content
    }
}
